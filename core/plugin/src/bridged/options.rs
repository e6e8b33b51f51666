//! The options of a bridge, in the same words for every network that has one.

use ipnet::IpNet;
use switchyard_netstate::IfName;

use super::Bridged;
use crate::{OptionReader, OptionsError};

/// More prefixes than that belong into routes.
const MOST_PREFIXES: usize = 64;

impl Bridged {
    /// Takes `bridge`, `mtu`, `masquerade` and `nonMasqueradeCIDRs`.
    pub fn read(options: &mut OptionReader<'_>) -> Result<Self, OptionsError> {
        let expected = "an interface name of 1 to 15 bytes, other than lo and eth0";
        let bridge = options.take_if("bridge", expected, |name: &IfName| !["lo", "eth0"].contains(&name.as_str()))?;
        let mtu = options.take_if("mtu", "a number from 576 to 65535", |mtu| (576..=65535).contains(mtu))?;
        let masquerade = options.take("masquerade", "true or false")?;
        let expected = "a list of at most 64 prefixes such as \"10.0.0.0/8\"";
        let fits = |nets: &Vec<IpNet>| nets.len() <= MOST_PREFIXES;
        let non_masquerade = options.take_if("nonMasqueradeCIDRs", expected, fits)?;
        Ok(Self {
            bridge: bridge.unwrap_or_else(|| super::name("cbr0")),
            mtu,
            masquerade: masquerade.unwrap_or(true),
            non_masquerade,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Bridged, String> {
        let given = serde_json::from_str(json).unwrap();
        let mut options = OptionReader::new(&given);
        let read = Bridged::read(&mut options).and_then(|bridged| options.finish().map(|()| bridged));
        read.map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_has_a_default() {
        let bridged = read("{}").unwrap();
        assert_eq!(bridged.bridge.as_str(), "cbr0");
        assert_eq!((bridged.mtu, bridged.masquerade, bridged.non_masquerade), (None, true, None));
    }

    #[test]
    fn a_bad_option_is_named_with_its_value_and_what_would_be_right() {
        for (json, expected) in [
            (
                r#"{"bridge":"a bridge too far"}"#,
                r#"option bridge: "a bridge too far" given, expected an interface name of 1 to 15 bytes, other than lo and eth0"#,
            ),
            (
                r#"{"bridge":"lo"}"#,
                r#"option bridge: "lo" given, expected an interface name of 1 to 15 bytes, other than lo and eth0"#,
            ),
            (r#"{"mtu":100}"#, "option mtu: 100 given, expected a number from 576 to 65535"),
            (r#"{"masquerade":"yes"}"#, r#"option masquerade: "yes" given, expected true or false"#),
            (
                r#"{"nonMasqueradeCIDRs":["10.0.0.0/33"]}"#,
                r#"option nonMasqueradeCIDRs: ["10.0.0.0/33"] given, expected a list of at most 64 prefixes such as "10.0.0.0/8""#,
            ),
            (r#"{"mtuu":1}"#, "option mtuu: unknown; this plugin takes bridge, mtu, masquerade, nonMasqueradeCIDRs"),
        ] {
            assert_eq!(read(json).unwrap_err(), expected);
        }
    }
}
