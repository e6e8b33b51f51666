//! Links: RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK.

use std::os::fd::{AsFd, AsRawFd};

use switchyard_netstate::{IfName, Link, LinkKind, Mac, Place, PortSettings};

use crate::netlink::{Attributes, Message, be_u16};
use crate::{Netns, sys};

/// An interface as the kernel shows it.
#[derive(Clone, Debug)]
pub(crate) struct FoundLink {
    pub(crate) index: u32,
    pub(crate) name: IfName,
    pub(crate) group: u32,
    pub(crate) master: u32,
    /// The number of the lower interface, or of the other end (in its own namespace).
    pub(crate) lower: u32,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    up: bool,
    kind: String,
    data: Vec<u8>,
    port: PortSettings,
}

/// The other end of a veth pair about to be made.
pub(crate) struct Peer<'a> {
    pub(crate) name: &'a IfName,
    pub(crate) netns: &'a Netns,
    /// What is wanted of it, if that is known.
    pub(crate) link: Option<&'a Link>,
}

/// Numbers of other links that a link refers to.
#[derive(Default)]
pub(crate) struct Related<'a> {
    pub(crate) master: Option<u32>,
    pub(crate) lower: Option<u32>,
    pub(crate) peer: Option<Peer<'a>>,
}

/// Makes a link, and both ends of a veth pair, with all attributes that can be given at once. The answer carries its number.
pub(crate) fn create(link: &Link, owner: u8, related: &Related<'_>) -> Message {
    let flags = sys::NLM_F_CREATE | sys::NLM_F_EXCL | sys::NLM_F_ECHO;
    let mut message = Message::new(sys::RTM_NEWLINK, flags, &header(0, link.up));
    common(&mut message, &link.name, Some(link), owner);
    if peer_of(link).is_some() {
        one_queue(&mut message);
    }
    if let Some(master) = related.master {
        message.u32(sys::IFLA_MASTER, master);
    }
    if let (Some(lower), LinkKind::Macvlan { .. }) = (related.lower, &link.kind) {
        message.u32(sys::IFLA_LINK, lower);
    }
    message.nest(sys::IFLA_LINKINFO, |info| kind(info, link, owner, related));
    message
}

/// Turns what is there into what is wanted, as far as that goes without making it anew. `None`: nothing to say.
pub(crate) fn change(from: Option<&Link>, to: &Link, master: Option<u32>) -> Option<Message> {
    let mut message = Message::new(sys::RTM_NEWLINK, 0, &header_change(from.is_none_or(|f| f.up != to.up), to.up));
    message.text(sys::IFLA_IFNAME, to.name.as_str());
    let bare = message.len();
    if let Some(mtu) = to.mtu.filter(|mtu| from.and_then(|f| f.mtu) != Some(*mtu)) {
        message.u32(sys::IFLA_MTU, mtu);
    }
    if let Some(mac) = to.mac.filter(|mac| from.and_then(|f| f.mac) != Some(*mac)) {
        message.attr(sys::IFLA_ADDRESS, &mac.0);
    }
    if from.is_none_or(|f| f.master != to.master) {
        match master {
            Some(master) => drop(message.u32(sys::IFLA_MASTER, master)),
            None if from.is_some_and(|f| f.master.is_some()) => drop(message.u32(sys::IFLA_MASTER, 0)),
            None => {}
        }
    }
    if let (Some(LinkKind::Bridge { multicast_snooping: old }), LinkKind::Bridge { multicast_snooping: new }) =
        (from.map(|f| &f.kind), &to.kind)
        && old != new
    {
        message.nest(sys::IFLA_LINKINFO, |info| kind(info, to, 0, &Related::default()));
    }
    let flags = from.is_none_or(|f| f.up != to.up);
    (flags || message.len() > bare).then_some(message)
}

/// Sets the MTU of a new bridge. A bridge follows the smallest MTU of its ports until its own has been changed once, so the
/// kernel's default is left and come back to.
pub(crate) fn pin_mtu(link: &Link) -> Vec<Message> {
    const DEFAULT: u32 = 1500;
    let set = |mtu: u32| {
        let mut message = Message::new(sys::RTM_NEWLINK, 0, &[0; 16]);
        message.text(sys::IFLA_IFNAME, link.name.as_str()).u32(sys::IFLA_MTU, mtu);
        message
    };
    match (&link.kind, link.mtu) {
        (LinkKind::Bridge { .. }, Some(DEFAULT)) => vec![set(DEFAULT - 1), set(DEFAULT)],
        (LinkKind::Bridge { .. }, Some(mtu)) => vec![set(mtu)],
        _ => Vec::new(),
    }
}

/// Sets the hardware address of a link.
pub(crate) fn address(name: &IfName, mac: Mac) -> Message {
    let mut message = Message::new(sys::RTM_NEWLINK, 0, &[0; 16]);
    message.text(sys::IFLA_IFNAME, name.as_str()).attr(sys::IFLA_ADDRESS, &mac.0);
    message
}

/// Sets the flags of a bridge port.
pub(crate) fn port(name: &IfName, port: &PortSettings) -> Message {
    let mut message = Message::new(sys::RTM_NEWLINK, 0, &[0; 16]);
    message.text(sys::IFLA_IFNAME, name.as_str()).nest(sys::IFLA_LINKINFO, |info| {
        info.text(sys::IFLA_INFO_SLAVE_KIND, "bridge").nest(sys::IFLA_INFO_SLAVE_DATA, |data| {
            data.u8(sys::IFLA_BRPORT_MODE, port.hairpin.into())
                .u8(sys::IFLA_BRPORT_ISOLATED, port.isolated.into())
                .u8(sys::IFLA_BRPORT_LEARNING, port.learning.into())
                .u8(sys::IFLA_BRPORT_NEIGH_SUPPRESS, port.neigh_suppress.into());
        });
    });
    message
}

/// Takes a link away, by name.
pub(crate) fn remove(name: &IfName) -> Message {
    let mut message = Message::new(sys::RTM_DELLINK, 0, &[0; 16]);
    message.text(sys::IFLA_IFNAME, name.as_str());
    message
}

/// Asks for one link by name.
pub(crate) fn get(name: &IfName) -> Message {
    let mut message = Message::new(sys::RTM_GETLINK, 0, &[0; 16]);
    message.text(sys::IFLA_IFNAME, name.as_str()).u32(sys::IFLA_EXT_MASK, sys::RTEXT_FILTER_SKIP_STATS);
    message
}

/// Asks for all.
pub(crate) fn list() -> Message {
    let mut message = Message::new(sys::RTM_GETLINK, 0, &[0; 16]);
    message.u32(sys::IFLA_EXT_MASK, sys::RTEXT_FILTER_SKIP_STATS);
    message
}

// === impl FoundLink ===

impl FoundLink {
    /// Reads an answer; `None` if it is no link that could be wanted.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let index = crate::netlink::u32_of(payload.get(4..8)?)?;
        let flags = crate::netlink::u32_of(payload.get(8..12)?)?;
        let attributes = Attributes::after(payload, 16);
        let info = attributes.nest(sys::IFLA_LINKINFO);
        let mac = attributes.get(sys::IFLA_ADDRESS).and_then(|b| <[u8; 6]>::try_from(b).ok());
        Some(Self {
            index,
            name: IfName::new(attributes.text(sys::IFLA_IFNAME)?).ok()?,
            group: attributes.u32(sys::IFLA_GROUP).unwrap_or_default(),
            master: attributes.u32(sys::IFLA_MASTER).unwrap_or_default(),
            lower: attributes.u32(sys::IFLA_LINK).unwrap_or_default(),
            mtu: attributes.u32(sys::IFLA_MTU).unwrap_or_default(),
            mac: mac.map(Mac),
            up: flags & sys::IFF_UP != 0,
            kind: info.text(sys::IFLA_INFO_KIND).unwrap_or_default(),
            data: info.get(sys::IFLA_INFO_DATA).unwrap_or_default().to_vec(),
            port: port_settings(info.nest(sys::IFLA_INFO_SLAVE_DATA)),
        })
    }

    /// Whether it is as wanted; what the wish leaves open is not compared.
    pub(crate) fn will_do(&self, wanted: &Link, names: &super::Names) -> bool {
        self.same_kind(wanted, names)
            && (self.same_snooping(wanted))
            && wanted.mtu.is_none_or(|mtu| mtu == self.mtu)
            && wanted.mac.is_none_or(|mac| Some(mac) == self.mac)
            && wanted
                .master
                .as_ref()
                .is_none_or(|master| names.get(&self.master) == Some(master) && wanted.port == self.port)
            && wanted.up == self.up
    }

    /// Whether nothing that a notification shows speaks against its being as wanted.
    pub(crate) fn could_be(&self, wanted: &Link) -> bool {
        wanted.mtu.is_none_or(|mtu| mtu == self.mtu)
            && wanted.mac.is_none_or(|mac| Some(mac) == self.mac)
            && wanted.up == self.up
            && (wanted.master.is_none() || self.master != 0)
    }

    /// Whether it can be made as wanted without making it anew.
    pub(crate) fn same_kind(&self, wanted: &Link, names: &super::Names) -> bool {
        let data = Attributes(&self.data);
        match &wanted.kind {
            LinkKind::Existing => true,
            LinkKind::Veth { .. } => self.kind == "veth",
            LinkKind::Bridge { .. } => self.kind == "bridge",
            LinkKind::Macvlan { dev } => self.kind == "macvlan" && names.get(&self.lower) == Some(dev),
            LinkKind::Tun => self.kind == "tun",
            LinkKind::Geneve { port } => {
                self.kind == "geneve"
                    && data.get(sys::IFLA_GENEVE_PORT).and_then(be_u16) == Some(*port)
                    && data.get(sys::IFLA_GENEVE_COLLECT_METADATA).is_some()
            }
            LinkKind::Vxlan { vni, port, local, dev, learning, gbp } => {
                self.kind == "vxlan"
                    && data.u32(sys::IFLA_VXLAN_ID) == Some(*vni)
                    && data.get(sys::IFLA_VXLAN_PORT).and_then(be_u16) == Some(*port)
                    && data.ip(if local.is_ipv4() { sys::IFLA_VXLAN_LOCAL } else { sys::IFLA_VXLAN_LOCAL6 })
                        == Some(*local)
                    && data.u32(sys::IFLA_VXLAN_LINK).filter(|link| *link != 0).and_then(|link| names.get(&link))
                        == dev.as_ref()
                    && data.u8(sys::IFLA_VXLAN_LEARNING).is_some_and(|on| (on != 0) == *learning)
                    && data.get(sys::IFLA_VXLAN_GBP).is_some() == *gbp
            }
        }
    }

    fn same_snooping(&self, wanted: &Link) -> bool {
        match wanted.kind {
            LinkKind::Bridge { multicast_snooping } => {
                Attributes(&self.data).u8(sys::IFLA_BR_MCAST_SNOOPING).is_none_or(|on| (on != 0) == multicast_snooping)
            }
            _ => true,
        }
    }

    /// What is there, in the words of a wish; for a kind we do not make, the closest that names it.
    pub(crate) fn as_link(&self, like: Option<&Link>, names: &super::Names) -> Link {
        let kind = match (self.kind.as_str(), like) {
            ("bridge", _) => LinkKind::Bridge {
                multicast_snooping: Attributes(&self.data).u8(sys::IFLA_BR_MCAST_SNOOPING) != Some(0),
            },
            (_, Some(like)) if self.same_kind(like, names) => like.kind.clone(),
            _ => LinkKind::Tun,
        };
        Link {
            name: self.name.clone(),
            kind,
            mtu: Some(self.mtu),
            mac: self.mac,
            master: names.get(&self.master).cloned(),
            port: self.port,
            up: self.up,
        }
    }
}

fn header(index: u32, up: bool) -> [u8; 16] {
    let mut header = header_change(true, up);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct ifinfomsg` that sets the link up or down, or leaves it alone.
fn header_change(change: bool, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    if up && change {
        header[8..12].copy_from_slice(&sys::IFF_UP.to_ne_bytes());
    }
    if change {
        header[12..16].copy_from_slice(&sys::IFF_UP.to_ne_bytes());
    }
    header
}

fn common(message: &mut Message, name: &IfName, link: Option<&Link>, owner: u8) {
    message.text(sys::IFLA_IFNAME, name.as_str()).u32(sys::IFLA_GROUP, owner.into());
    let pinned_later = link.is_some_and(|link| matches!(link.kind, LinkKind::Bridge { .. }));
    if let Some(mtu) = link.and_then(|link| link.mtu).filter(|_| !pinned_later) {
        message.u32(sys::IFLA_MTU, mtu);
    }
    if let Some(mac) = link.and_then(|link| link.mac) {
        message.attr(sys::IFLA_ADDRESS, &mac.0);
    }
}

/// One queue each way. A veth device would get as many as there may be processors (`veth_get_num_queues`), each with its files in
/// sysfs, and has no use for them: it takes no lock to send, and receives by the processor that sent.
fn one_queue(message: &mut Message) {
    message.u32(sys::IFLA_NUM_TX_QUEUES, 1).u32(sys::IFLA_NUM_RX_QUEUES, 1);
}

/// What is inside IFLA_LINKINFO.
fn kind(info: &mut Message, link: &Link, owner: u8, related: &Related<'_>) {
    match &link.kind {
        LinkKind::Existing | LinkKind::Tun => {}
        LinkKind::Bridge { multicast_snooping } => {
            info.text(sys::IFLA_INFO_KIND, "bridge").nest(sys::IFLA_INFO_DATA, |data| {
                data.u8(sys::IFLA_BR_MCAST_SNOOPING, (*multicast_snooping).into());
            });
        }
        LinkKind::Veth { .. } => {
            info.text(sys::IFLA_INFO_KIND, "veth");
            let Some(peer) = &related.peer else { return };
            info.nest(sys::IFLA_INFO_DATA, |data| {
                data.nest(sys::VETH_INFO_PEER, |end| {
                    // Not up yet: the kernel joins the two only after this end is configured (veth_open: ENOTCONN).
                    end.raw(&[0; 16]);
                    common(end, peer.name, peer.link, owner);
                    one_queue(end);
                    end.u32(sys::IFLA_NET_NS_FD, peer.netns.as_fd().as_raw_fd() as u32);
                });
            });
        }
        LinkKind::Macvlan { .. } => {
            info.text(sys::IFLA_INFO_KIND, "macvlan").nest(sys::IFLA_INFO_DATA, |data| {
                data.u32(sys::IFLA_MACVLAN_MODE, sys::MACVLAN_MODE_BRIDGE);
            });
        }
        LinkKind::Geneve { port } => {
            info.text(sys::IFLA_INFO_KIND, "geneve").nest(sys::IFLA_INFO_DATA, |data| {
                data.be16(sys::IFLA_GENEVE_PORT, *port).flag(sys::IFLA_GENEVE_COLLECT_METADATA);
            });
        }
        LinkKind::Vxlan { vni, port, local, learning, gbp, .. } => {
            info.text(sys::IFLA_INFO_KIND, "vxlan").nest(sys::IFLA_INFO_DATA, |data| {
                let source = if local.is_ipv4() { sys::IFLA_VXLAN_LOCAL } else { sys::IFLA_VXLAN_LOCAL6 };
                data.u32(sys::IFLA_VXLAN_ID, *vni)
                    .be16(sys::IFLA_VXLAN_PORT, *port)
                    .ip(source, *local)
                    .u8(sys::IFLA_VXLAN_LEARNING, (*learning).into());
                if let Some(lower) = related.lower {
                    data.u32(sys::IFLA_VXLAN_LINK, lower);
                }
                if *gbp {
                    data.flag(sys::IFLA_VXLAN_GBP);
                }
            });
        }
    }
}

/// Reads the flags of a bridge port.
pub(crate) fn port_settings(data: Attributes<'_>) -> PortSettings {
    let on = |kind| data.u8(kind).is_some_and(|value| value != 0);
    PortSettings {
        hairpin: on(sys::IFLA_BRPORT_MODE),
        isolated: on(sys::IFLA_BRPORT_ISOLATED),
        learning: data.u8(sys::IFLA_BRPORT_LEARNING).is_none_or(|value| value != 0),
        neigh_suppress: on(sys::IFLA_BRPORT_NEIGH_SUPPRESS),
    }
}

/// The other end of a veth.
pub(crate) fn peer_of(link: &Link) -> Option<(&Place, &IfName)> {
    match &link.kind {
        LinkKind::Veth { peer } => Some((&peer.place, &peer.name)),
        _ => None,
    }
}
