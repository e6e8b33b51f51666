//! Reading YAML into no more memory than JSON of the same length could take.
//!
//! An alias stands for all that its anchor holds, so a short document may be a very long value; what comes out is counted.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Builds a value, and takes its length from what is left.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<usize>);

/// Reads one document whose value, written as JSON, has at most about `limit` bytes.
pub fn parse(bytes: &[u8], limit: usize) -> Result<Value, serde_yaml_ng::Error> {
    let left = Cell::new(limit);
    Counted(&left).deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))
}

// === impl Counted ===

impl Counted<'_> {
    fn take<E: Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(bytes).ok_or_else(|| E::custom("its aliases stand for too much"))?;
        self.0.set(left);
        Ok(())
    }

    fn number<E: Error>(self, number: impl Into<Value>) -> Result<Value, E> {
        self.take(2)?;
        Ok(number.into())
    }
}

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has as well")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.number(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.number(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.number(Value::Null)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.take(value.len() + 2)?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.take(2)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.take(2)?;
        let mut map = Map::new();
        while let Some(field) = fields.next_key::<String>()? {
            self.take(field.len() + 4)?;
            map.insert(field, fields.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_read_with_its_aliases() {
        let value = parse(b"a: &x {b: [1, true, null, -2, 1.5, text]}\nc: *x\n", 1000).expect("good YAML");
        let inner = json!({"b": [1, true, null, -2, 1.5, "text"]});
        assert_eq!(value, json!({"a": inner, "c": inner}));
    }

    #[test]
    fn aliases_of_aliases_come_to_an_end() {
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(10_000), "*a,".repeat(10_000));
        let mut many = String::from("a0: &a0 x\n");
        for n in 1..20 {
            many.push_str(&format!("a{n}: &a{n} [{}]\n", format!("*a{},", n - 1).repeat(9)));
        }
        let error = parse(long.as_bytes(), 1 << 20).expect_err("too much");
        assert!(error.to_string().contains("aliases stand for too much"), "{error}");
        parse(many.as_bytes(), 1 << 20).expect_err("too many");
    }
}
