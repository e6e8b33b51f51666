//! Options, read and checked.

use switchyard_plugin::bridged::Bridged;
use switchyard_plugin::{OptionReader, Options, OptionsError};

/// What the user chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// VXLAN network identifier. Default 1.
    pub(crate) vni: u32,
    /// UDP port of the tunnels. Default 8472, Linux's own from before 4789 was assigned: networks that use 4789 can stand beside
    /// this one on a node.
    pub(crate) port: u16,
    /// Plain routes to nodes of the same underlay prefix. Default false.
    pub(crate) direct_routing: bool,
    /// The bridge of every node.
    pub(crate) bridged: Bridged,
}

/// 24 bits.
const MOST_VNI: u32 = (1 << 24) - 1;

// === impl Settings ===

impl Settings {
    pub(crate) fn read(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let vni = options.take_if("vni", "a number from 1 to 16777215", |vni| (1..=MOST_VNI).contains(vni))?;
        let port = options.take_if("port", "a number from 1 to 65535", |port| *port > 0)?;
        let direct_routing = options.take("directRouting", "true or false")?;
        let bridged = Bridged::read(&mut options)?;
        options.finish()?;
        let settings = Self {
            vni: vni.unwrap_or(1),
            port: port.unwrap_or(8472),
            direct_routing: direct_routing.unwrap_or(false),
            bridged,
        };
        settings.names_differ()?;
        Ok(settings)
    }

    /// A bridge of the tunnel's name cannot be made.
    fn names_differ(&self) -> Result<(), OptionsError> {
        let bridge = self.bridged.bridge.as_str();
        if bridge != format!("vxlan{}", self.vni) {
            return Ok(());
        }
        Err(OptionsError { option: "bridge".into(), problem: format!("{bridge:?} is the name of the tunnel's device") })
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
        assert_eq!((settings.vni, settings.port, settings.direct_routing), (1, 8472, false));
        assert_eq!(settings.bridged.bridge.as_str(), "cbr0");
    }

    #[test]
    fn a_bad_option_is_named_with_its_value_and_what_would_be_right() {
        for (json, expected) in [
            (r#"{"vni":0}"#, "option vni: 0 given, expected a number from 1 to 16777215"),
            (r#"{"vni":16777216}"#, "option vni: 16777216 given, expected a number from 1 to 16777215"),
            (r#"{"port":65536}"#, "option port: 65536 given, expected a number from 1 to 65535"),
            (r#"{"directRouting":1}"#, "option directRouting: 1 given, expected true or false"),
            (r#"{"mtu":100}"#, "option mtu: 100 given, expected a number from 576 to 65535"),
            (r#"{"vni":7,"bridge":"vxlan7"}"#, r#"option bridge: "vxlan7" is the name of the tunnel's device"#),
            (
                r#"{"colour":1}"#,
                "option colour: unknown; this plugin takes vni, port, directRouting, bridge, mtu, masquerade, nonMasqueradeCIDRs",
            ),
        ] {
            assert_eq!(read(json).unwrap_err(), expected);
        }
    }
}
