//! Options, read and checked.

use ipnet::IpNet;
use switchyard_plugin::netstate::IfName;
use switchyard_plugin::{OptionReader, Options, OptionsError};

/// What the user chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name of the bridge. Default `cbr0`.
    pub(crate) bridge: IfName,
    /// MTU of bridge and pods, in bytes. Default: the underlay's.
    pub(crate) mtu: Option<u32>,
    /// Masquerade what leaves the cluster. Default true.
    pub(crate) masquerade: bool,
    /// What counts as inside. Default: pods, Services, nodes.
    pub(crate) non_masquerade: Option<Vec<IpNet>>,
}

/// More prefixes than that belong into routes.
const MOST_PREFIXES: usize = 64;

// === impl Settings ===

impl Settings {
    pub(crate) fn read(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let expected = "an interface name of 1 to 15 bytes, other than lo and eth0";
        let bridge = options.take_if("bridge", expected, |name: &IfName| !["lo", "eth0"].contains(&name.as_str()))?;
        let mtu = options.take_if("mtu", "a number from 576 to 65535", |mtu| (576..=65535).contains(mtu))?;
        let masquerade = options.take("masquerade", "true or false")?;
        let expected = "a list of at most 64 prefixes such as \"10.0.0.0/8\"";
        let fits = |nets: &Vec<IpNet>| nets.len() <= MOST_PREFIXES;
        let non_masquerade = options.take_if("nonMasqueradeCIDRs", expected, fits)?;
        options.finish()?;
        Ok(Self {
            bridge: bridge.unwrap_or_else(|| crate::name("cbr0")),
            mtu,
            masquerade: masquerade.unwrap_or(true),
            non_masquerade,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Settings, String> {
        Settings::read(&serde_json::from_str(json).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_has_a_default() {
        let settings = read("{}").unwrap();
        assert_eq!(settings.bridge.as_str(), "cbr0");
        assert_eq!((settings.mtu, settings.masquerade, settings.non_masquerade), (None, true, None));
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
