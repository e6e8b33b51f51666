//! Hears of changes that others make, and has them repaired.
//!
//! One thread waits on one socket for each place (two where nftables matter) and on a queue of places that come and go. A message
//! that we caused ourselves is known by its sender's port; one that cannot concern us is passed over; anything else makes its place
//! dirty, and a few milliseconds later the engine compares that place with what is wanted. A queue that overflowed makes it dirty too.
//! What could not be put right is tried again after pauses that grow, as what stands in its way may go without a word.

mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use switchyard_netstate::nft::TableRef;
use switchyard_netstate::{IfName, Key, Link, Object, Place, PortSettings};
use tracing::{debug, warn};

use crate::netlink::{Attributes, Family, PORT_MASK, port_base, split, u16_of, u32_of};
use crate::rtnl::link::{FoundLink, port_settings};
use crate::{Audit, Engine, Error, Netns, sys};
use trouble::Troubled;

/// Changes come in bursts; a burst is looked at once.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// A burst that does not end is looked at all the same.
const AT_LATEST: Duration = Duration::from_millis(100);
/// The event that the queue of places raises.
const QUEUE: u64 = 0;

/// Watches over an engine's places until it is dropped.
pub struct Keeper {
    watch: Arc<Watch>,
    thread: Option<JoinHandle<()>>,
}

/// What the keeper did.
#[derive(Debug)]
pub struct Repair {
    /// The places somebody changed.
    pub places: BTreeSet<Place>,
    /// Those of them from which an interface of somebody else's has gone: what it was in the way of may be tried again.
    pub freed: BTreeSet<Place>,
    /// What was found and repaired, or why it could not be.
    pub outcome: Result<Audit, Error>,
}

/// How an engine tells its keeper of places that come and go.
pub(crate) struct Watch {
    queue: Mutex<Vec<News>>,
    wake: OwnedFd,
}

pub(crate) enum News {
    Added(Place, Arc<Netns>),
    Removed(Place),
    Stop,
}

struct Ear {
    place: Place,
    family: Family,
    socket: Socket,
}

/// What the kernel said last of a link and of a bridge port. It does so by itself, too (carrier, port states), and tells nobody who
/// changed an MTU, so such a message makes a place dirty only if it shows something else than is wanted.
#[derive(Default)]
struct Seen {
    link: Option<FoundLink>,
    port: Option<PortSettings>,
}

struct Listener {
    owner: u8,
    seen: BTreeMap<(Place, IfName), Seen>,
    /// Links that went down and are not up again.
    fallen: BTreeSet<(Place, IfName)>,
    /// Places from which an interface of somebody else's has gone.
    freed: BTreeSet<Place>,
    epoll: OwnedFd,
    watch: Arc<Watch>,
    ears: BTreeMap<u64, Ear>,
    next: u64,
    buffer: Vec<u8>,
}

// === impl Keeper ===

impl Keeper {
    /// Starts to watch; what changed before is [`Engine::reconcile`]'s to find. Parameters change without a word from the kernel, and
    /// nftables are not watched in pods. `report` is told of every repair that found something or ended a trouble, and when
    /// an interface of somebody else's has gone; it runs on the keeper's thread.
    pub fn spawn(engine: &Arc<Mutex<Engine>>, report: impl Fn(Repair) + Send + 'static) -> io::Result<Self> {
        let watch = Arc::new(Watch {
            queue: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &watch.wake, epoll::EventData::new_u64(QUEUE), epoll::EventFlags::IN)?;
        let owner = {
            let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            for (place, netns) in engine.places().iter() {
                watch.tell(News::Added(place.clone(), netns.clone()));
            }
            engine.watch = Some(Arc::downgrade(&watch));
            engine.owner().protocol
        };
        let mut listener = Listener {
            owner,
            seen: BTreeMap::new(),
            fallen: BTreeSet::new(),
            freed: BTreeSet::new(),
            epoll,
            watch: watch.clone(),
            ears: BTreeMap::new(),
            next: QUEUE + 1,
            buffer: vec![0; 64 << 10],
        };
        // The engine is not kept alive by its keeper.
        let engine = Arc::downgrade(engine);
        listener.queue(&mut BTreeSet::new(), &mut Troubled::default());
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || listener.run(&engine, &report))?;
        Ok(Self { watch, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.watch.tell(News::Stop);
        // `report` may hold what drops us.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

// === impl Watch ===

impl Watch {
    pub(crate) fn tell(&self, news: News) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(news);
        // Full only if it has been raised already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

// === impl Seen ===

impl Seen {
    fn agrees(&self, wanted: &Link) -> bool {
        let port = self.port.is_none_or(|port| wanted.master.is_none() || wanted.port == port);
        port && self.link.as_ref().is_none_or(|link| link.could_be(wanted))
    }
}

// === impl Listener ===

impl Listener {
    fn run(mut self, engine: &Weak<Mutex<Engine>>, report: &dyn Fn(Repair)) {
        let mut dirty: BTreeSet<Place> = BTreeSet::new();
        let mut since: Option<Instant> = None;
        let mut troubled = Troubled::default();
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        loop {
            let patience = since.map(|_| DEBOUNCE).or_else(|| troubled.patience(Instant::now()));
            let patience = patience.map(|patience| Timespec::try_from(patience).expect("pauses are short"));
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), patience.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    warn!(%error, "the keeper cannot wait and ends");
                    return;
                }
            }
            let quiet = events.is_empty();
            for event in &events {
                match event.data.u64() {
                    QUEUE => {
                        let mut counter = [0; 8];
                        let _ = rustix::io::read(&self.watch.wake, &mut counter);
                        if !self.queue(&mut dirty, &mut troubled) {
                            return;
                        }
                    }
                    number => self.listen(number, &mut dirty),
                }
            }
            let retried = troubled.due(Instant::now());
            if dirty.is_empty() && self.seen.is_empty() && retried.is_empty() {
                since = None;
                continue;
            }
            let first = *since.get_or_insert_with(Instant::now);
            if !quiet && first.elapsed() < AT_LATEST {
                continue;
            }
            since = None;
            let Some(engine) = engine.upgrade() else { return };
            let mut engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            for ((place, name), seen) in std::mem::take(&mut self.seen) {
                let agrees = match engine.wants(&place, &Key::Link(name)) {
                    Some(Object::Link(wanted)) => seen.agrees(&wanted),
                    _ => seen.link.is_none_or(|link| link.group != u32::from(self.owner)),
                };
                if !agrees {
                    dirty.insert(place);
                }
            }
            dirty.extend(retried);
            if dirty.is_empty() {
                continue;
            }
            let mut places = std::mem::take(&mut dirty);
            places.retain(|place| engine.places().contains(place));
            troubled.retain(|place| engine.places().contains(place));
            let outcome = engine.repair(&places);
            drop(engine);
            let was_trouble = places.iter().any(|place| troubled.holds(place));
            let is_news = troubled.note(Instant::now(), &places, &outcome);
            let freed = std::mem::take(&mut self.freed);
            let is_clean = matches!(&outcome, Ok(audit) if audit.is_clean());
            if is_news && (was_trouble || !is_clean) || !freed.is_empty() {
                report(Repair { places, freed, outcome });
            }
        }
    }

    /// Takes in places that came and went; false at the end.
    fn queue(&mut self, dirty: &mut BTreeSet<Place>, troubled: &mut Troubled) -> bool {
        let news = std::mem::take(&mut *self.watch.queue.lock().unwrap_or_else(PoisonError::into_inner));
        for one in news {
            match one {
                News::Stop => return false,
                News::Removed(place) => {
                    self.ears.retain(|_, ear| ear.place != place);
                    dirty.remove(&place);
                    troubled.retain(|one| *one != place);
                }
                News::Added(place, netns) => {
                    self.ears.retain(|_, ear| ear.place != place);
                    // A pod's namespace holds no nftables of ours, and there may be a thousand of them.
                    let families: &[Family] = match place {
                        Place::Pod(_) => &[Family::Route],
                        _ => &[Family::Route, Family::Netfilter],
                    };
                    for family in families {
                        if let Err(error) = self.add(&place, &netns, *family) {
                            warn!(%place, %error, "changes in this place will not be noticed");
                        }
                    }
                    // What changed before we listened is found by looking once. A pod's namespace is new, and about to be filled.
                    if !matches!(place, Place::Pod(_)) {
                        dirty.insert(place);
                    }
                }
            }
        }
        true
    }

    fn add(&mut self, place: &Place, netns: &Netns, family: Family) -> io::Result<()> {
        let socket = netns.visit(|| subscribe(family))??;
        let number = self.next;
        self.next += 1;
        epoll::add(&self.epoll, socket.as_fd(), epoll::EventData::new_u64(number), epoll::EventFlags::IN)?;
        self.ears.insert(number, Ear { place: place.clone(), family, socket });
        Ok(())
    }

    /// Reads all that a socket has.
    fn listen(&mut self, number: u64, dirty: &mut BTreeSet<Place>) {
        let Some(ear) = self.ears.get(&number) else { return };
        loop {
            match ear.socket.recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
                Ok(length) => {
                    let Some(bytes) = self.buffer.get(..length) else {
                        dirty.insert(ear.place.clone());
                        continue;
                    };
                    for (_, kind, _, sender, payload) in split(bytes) {
                        note(ear, kind, payload, &mut self.seen);
                        if frees(ear, kind, payload, self.owner) {
                            self.freed.insert(ear.place.clone());
                        }
                        if fell_or_rose(ear, kind, payload, &mut self.fallen) {
                            dirty.insert(ear.place.clone());
                        }
                        if !dirty.contains(&ear.place) && matters(ear.family, kind, sender, payload, self.owner) {
                            debug!(place = %ear.place, kind, sender, "changed by somebody else");
                            dirty.insert(ear.place.clone());
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // ENOBUFS: something was lost, so everything is looked at.
                    debug!(place = %ear.place, %error, "notifications were lost");
                    dirty.insert(ear.place.clone());
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        return;
                    }
                }
            }
        }
    }
}

fn subscribe(family: Family) -> io::Result<Socket> {
    let (protocol, groups): (_, &[u32]) = match family {
        Family::Route => (
            libc::NETLINK_ROUTE,
            &[
                sys::RTNLGRP_LINK,
                sys::RTNLGRP_NEIGH,
                sys::RTNLGRP_TC,
                sys::RTNLGRP_IPV4_IFADDR,
                sys::RTNLGRP_IPV4_ROUTE,
                sys::RTNLGRP_IPV4_RULE,
                sys::RTNLGRP_IPV6_IFADDR,
                sys::RTNLGRP_IPV6_ROUTE,
                sys::RTNLGRP_IPV6_RULE,
            ],
        ),
        Family::Netfilter => (libc::NETLINK_NETFILTER, &[sys::NFNLGRP_NFTABLES]),
    };
    let mut socket = Socket::new(protocol as isize)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 1 << 20).is_err() {
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 20);
    }
    for group in groups {
        socket.add_membership(*group)?;
    }
    Ok(socket)
}

/// Keeps what a message shows of a link or a bridge port.
fn note(ear: &Ear, kind: u16, payload: &[u8], seen: &mut BTreeMap<(Place, IfName), Seen>) {
    if ear.family != Family::Route || (kind != sys::RTM_NEWLINK && kind != sys::RTM_DELLINK) {
        return;
    }
    let about_port = payload.first().is_some_and(|family| i32::from(*family) == libc::AF_BRIDGE);
    let attributes = Attributes::after(payload, 16);
    let Some(name) = attributes.text(sys::IFLA_IFNAME).and_then(|name| IfName::new(name).ok()) else { return };
    if kind == sys::RTM_DELLINK {
        if !about_port {
            seen.remove(&(ear.place.clone(), name));
        }
        return;
    }
    let entry = seen.entry((ear.place.clone(), name)).or_default();
    if !about_port {
        entry.link = FoundLink::parse(payload);
    } else if attributes.get(sys::IFLA_PROTINFO).is_some() {
        entry.port = Some(port_settings(attributes.nest(sys::IFLA_PROTINFO)));
    }
}

/// Whether a link went down, or came up after that. The kernel takes away the routes of a link that goes down and tells nobody, and
/// none can be given to it until it is up again.
fn fell_or_rose(ear: &Ear, kind: u16, payload: &[u8], fallen: &mut BTreeSet<(Place, IfName)>) -> bool {
    if ear.family != Family::Route || (kind != sys::RTM_NEWLINK && kind != sys::RTM_DELLINK) {
        return false;
    }
    // `ifi_flags` and `ifi_change`; all bits of the latter are set for a link that is new.
    let (Some(flags), Some(change)) = (payload.get(8..12).and_then(u32_of), payload.get(12..16).and_then(u32_of))
    else {
        return false;
    };
    let is_turn = change & sys::IFF_UP != 0 && change != u32::MAX;
    if kind == sys::RTM_NEWLINK && !is_turn {
        return false;
    }
    let name = Attributes::after(payload, 16).text(sys::IFLA_IFNAME).and_then(|name| IfName::new(name).ok());
    let Some(link) = name.map(|name| (ear.place.clone(), name)) else { return false };
    match kind == sys::RTM_NEWLINK && flags & sys::IFF_UP == 0 {
        true => fallen.insert(link),
        false => fallen.remove(&link) && kind == sys::RTM_NEWLINK,
    }
}

/// Whether an interface went that is not ours.
fn frees(ear: &Ear, kind: u16, payload: &[u8], owner: u8) -> bool {
    let of_family = payload.first().copied().unwrap_or_default();
    ear.family == Family::Route
        && kind == sys::RTM_DELLINK
        && i32::from(of_family) != libc::AF_BRIDGE
        && Attributes::after(payload, 16).u32(sys::IFLA_GROUP) != Some(u32::from(owner))
}

/// Whether a message may mean that something of ours is not as wanted.
fn matters(family: Family, kind: u16, sender: u32, payload: &[u8], owner: u8) -> bool {
    if sender & PORT_MASK == port_base(owner) {
        return false;
    }
    let by_kernel = sender == 0;
    // What goes may be what stood in the place of ours, whoever it belonged to. What the kernel itself takes away is ours by its mark.
    let ours = |mark: Option<u8>| !by_kernel || mark == Some(owner);
    if family == Family::Netfilter {
        // The first attribute of every nf_tables message names its table.
        let table = Attributes::after(payload, 4).text(sys::NFTA_TABLE_NAME);
        let about_generation = kind & 0xff == sys::NFT_MSG_NEWGEN;
        return !by_kernel && !about_generation && table.is_some_and(|table| table.starts_with(TableRef::PREFIX));
    }
    let of_family = payload.first().copied().unwrap_or_default();
    match kind {
        sys::RTM_NEWLINK => !by_kernel && i32::from(of_family) != libc::AF_BRIDGE,
        // A port that leaves its bridge is seen at the link itself.
        sys::RTM_DELLINK => i32::from(of_family) != libc::AF_BRIDGE,
        sys::RTM_NEWADDR => !by_kernel,
        sys::RTM_DELADDR => ours(Attributes::after(payload, 8).u8(sys::IFA_PROTO)),
        sys::RTM_NEWROUTE => !by_kernel,
        sys::RTM_DELROUTE => ours(payload.get(5).copied()),
        sys::RTM_NEWNEIGH => !by_kernel,
        sys::RTM_DELNEIGH if i32::from(of_family) == libc::AF_BRIDGE => {
            payload.get(8..10).and_then(u16_of).is_some_and(|state| state & (sys::NUD_PERMANENT | sys::NUD_NOARP) != 0)
        }
        sys::RTM_DELNEIGH => ours(Attributes::after(payload, 12).u8(sys::NDA_PROTOCOL)),
        sys::RTM_NEWRULE | sys::RTM_DELRULE => true,
        sys::RTM_NEWQDISC | sys::RTM_DELQDISC => !by_kernel,
        _ => false,
    }
}
