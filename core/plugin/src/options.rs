//! Reading options, so that every plugin refuses a bad one in the same words.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Options as the user gave them.
pub type Options = Map<String, Value>;

/// An option that a plugin does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {option}: {problem}")]
pub struct OptionsError {
    /// Its name.
    pub option: String,
    /// What is wrong with it, with the value given and what would be right.
    pub problem: String,
}

/// Takes options one by one, and then says which of those given nobody asked for.
///
/// ```
/// use switchyard_plugin::{OptionReader, Options};
///
/// let given: Options = serde_json::from_str(r#"{"mtu": "big"}"#).unwrap();
/// let mut options = OptionReader::new(&given);
/// let error = options.take::<u32>("mtu", "a number of bytes").unwrap_err();
/// assert_eq!(error.to_string(), r#"option mtu: "big" given, expected a number of bytes"#);
/// ```
pub struct OptionReader<'a> {
    given: &'a Options,
    asked: Vec<&'static str>,
}

// === impl OptionsError ===

impl OptionsError {
    /// A value that is not what is `expected`.
    pub fn unexpected(option: &str, given: &Value, expected: &str) -> Self {
        let mut given = given.to_string();
        if given.len() > 80 {
            given = given.chars().take(79).chain(['…']).collect();
        }
        Self { option: option.into(), problem: format!("{given} given, expected {expected}") }
    }
}

// === impl OptionReader ===

impl<'a> OptionReader<'a> {
    /// A reader of what the user gave.
    pub fn new(given: &'a Options) -> Self {
        Self { given, asked: Vec::new() }
    }

    /// The option of this name, if it is given; an error, saying what is `expected`, if it is not of type `T`.
    pub fn take<T: DeserializeOwned>(&mut self, name: &'static str, expected: &str) -> Result<Option<T>, OptionsError> {
        self.take_if(name, expected, |_| true)
    }

    /// Like [`take`](Self::take), and the value must also pass a test.
    pub fn take_if<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
        test: impl FnOnce(&T) -> bool,
    ) -> Result<Option<T>, OptionsError> {
        self.asked.push(name);
        let Some(given) = self.given.get(name) else { return Ok(None) };
        match T::deserialize(given) {
            Ok(value) if test(&value) => Ok(Some(value)),
            _ => Err(OptionsError::unexpected(name, given, expected)),
        }
    }

    /// An error if there is an option that was not taken.
    pub fn finish(self) -> Result<(), OptionsError> {
        let Some(option) = self.given.keys().find(|name| !self.asked.contains(&name.as_str())) else { return Ok(()) };
        let problem = match &self.asked[..] {
            [] => "unknown; this plugin takes no options".to_owned(),
            asked => format!("unknown; this plugin takes {}", asked.join(", ")),
        };
        Err(OptionsError { option: option.clone(), problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(json: &str) -> Options {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn options_are_taken_by_name_and_type() {
        let given = given(r#"{"bridge":"br1","mtu":1400}"#);
        let mut options = OptionReader::new(&given);
        assert_eq!(options.take("bridge", "a name"), Ok(Some("br1".to_owned())));
        assert_eq!(options.take_if("mtu", "1280 to 9000", |mtu| (1280..=9000).contains(mtu)), Ok(Some(1400)));
        assert_eq!(options.take::<bool>("masquerade", "true or false"), Ok(None));
        assert_eq!(options.finish(), Ok(()));
    }

    #[test]
    fn an_error_names_option_value_and_what_would_be_right() {
        let given = given(r#"{"mtu":1,"colour":"red"}"#);
        let mut options = OptionReader::new(&given);
        let error = options.take_if::<u32>("mtu", "1280 to 9000", |mtu| *mtu >= 1280).unwrap_err();
        assert_eq!(error.to_string(), "option mtu: 1 given, expected 1280 to 9000");
        assert_eq!(options.finish().unwrap_err().to_string(), "option colour: unknown; this plugin takes mtu");
        let long = Value::String("x".repeat(1000));
        assert!(OptionsError::unexpected("a", &long, "less").problem.len() < 120);
    }
}
