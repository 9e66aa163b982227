//! The open connections of a listener: a bound for all of them and one for each client's network,
//! and the choice of those that are closed to make room.
//!
//! A connection is idle while none of its requests is being answered: also one that has not sent
//! anything yet. At a bound the connection that has been idle for the longest is closed for the new
//! one; if none has been idle for a second, the new one is refused. So connections that are opened
//! and kept take nothing from others but room that is not used.
//!
//! A request costs two additions and a store on its connection's own counters. The rest happens
//! when a connection opens. Connections are searched only at a bound, and one search is enough for
//! many that are closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{Counter, Gauge};
use nix::sys::socket::Shutdown;

use super::activity::{Activity, BATCH, Candidates, Key, TICK};
use crate::transport::TrustedProxies;
use crate::transport::client_ip::throttle_key;

/// Names of the metrics.
pub(super) mod metric {
    /// Open connections.
    pub(crate) const OPEN: &str = "lockable_connections";
    /// Idle connections that were closed to make room.
    pub(crate) const CLOSED_IDLE: &str = "lockable_connections_closed_idle_total";
    /// New connections that were closed at once, by the bound that they hit.
    pub(crate) const REFUSED: &str = "lockable_connections_refused_total";
    /// Connections that the system did not hand over.
    pub(crate) const ACCEPTS_FAILED: &str = "lockable_accepts_failed_total";

    /// Tells the exporter what each of them is.
    pub(crate) fn describe() {
        metrics::describe_gauge!(
            OPEN,
            "Open connections of clients, those to the metrics included"
        );
        metrics::describe_counter!(CLOSED_IDLE, "Idle connections closed to make room");
        metrics::describe_counter!(REFUSED, "New connections closed at once, by the bound");
        metrics::describe_counter!(ACCEPTS_FAILED, "Connections that could not be accepted");
        metrics::counter!(CLOSED_IDLE).increment(0);
        metrics::counter!(ACCEPTS_FAILED).increment(0);
    }
}

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// On the whole listener.
    pub total: usize,
    /// From one address, or for IPv6 one /64. Trusted proxies are bound by `total` only.
    pub per_network: usize,
}

/// The open connections of a listener.
pub struct Connections {
    limits: Limits,
    proxies: TrustedProxies,
    /// Ticks since the start.
    now: Arc<AtomicU32>,
    state: Mutex<State>,
    open_gauge: Gauge,
    closed_idle: Counter,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    networks: HashMap<IpAddr, Network>,
    /// Connections that are not about to close.
    open: usize,
    next_id: u64,
    candidates: Candidates,
}

#[derive(Default)]
struct Network {
    connections: HashMap<u64, Entry>,
    /// As in [`State`].
    open: usize,
    candidates: Candidates,
}

struct Entry {
    socket: RawFd,
    activity: Arc<Activity>,
    is_closing: bool,
}

/// The bound that a new connection hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Total,
    Network,
}

impl Connections {
    /// No connection yet. `proxies` may open as many as there may be.
    pub fn new(limits: Limits, proxies: TrustedProxies) -> Arc<Self> {
        Arc::new(Self {
            limits,
            proxies,
            now: Arc::default(),
            state: Mutex::default(),
            open_gauge: metrics::gauge!(metric::OPEN),
            closed_idle: metrics::counter!(metric::CLOSED_IDLE),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the time of idleness pass, for as long as it runs.
    pub(super) async fn keep_time(&self) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            self.tick();
        }
    }

    fn tick(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters a new connection, closing an idle one for it where a bound is reached. The socket has
    /// to stay open as long as the admission lives.
    pub(super) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        socket: RawFd,
    ) -> Result<Admission, Refusal> {
        let address = throttle_key(peer);
        let now = self.now.load(Ordering::Relaxed);
        let mut state = self.state();
        let state = &mut *state;
        let is_bound = !self.proxies.contains(peer.to_canonical());
        // A candidate may have gone since it was found: then there is another one.
        while let Some(network) = state.networks.get_mut(&address)
            && is_bound
            && network.open >= self.limits.per_network
        {
            let open = open_ones(address, &network.connections);
            let key = network.candidates.next(now, open);
            self.close(state, key.ok_or(Refusal::Network)?);
        }
        while state.open >= self.limits.total {
            let key = state.next_candidate(now).ok_or(Refusal::Total)?;
            self.close(state, key);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.open += 1;
        let activity = Activity::new(&self.now);
        let network = state.networks.entry(address).or_default();
        network.open += 1;
        network.connections.insert(
            id,
            Entry {
                socket,
                activity: Arc::clone(&activity),
                is_closing: false,
            },
        );
        self.open_gauge.increment(1);
        Ok(Admission {
            connections: Arc::clone(self),
            address,
            id,
            activity,
        })
    }

    /// Closes some of the connections that have been idle for the longest: the process is short of
    /// descriptors.
    pub(super) fn make_room(&self) {
        let now = self.now.load(Ordering::Relaxed);
        let mut state = self.state();
        for _ in 0..BATCH {
            let Some(key) = state.next_candidate(now) else {
                return;
            };
            self.close(&mut state, key);
        }
    }

    /// Ends both directions of the socket, at which its task finds the end of the connection and
    /// drops it.
    fn close(&self, state: &mut State, (address, id): Key) {
        let network = state.networks.get_mut(&address);
        let Some((network, entry)) = network.and_then(|network| {
            let entry = network.connections.get_mut(&id)?;
            Some((&mut network.open, entry))
        }) else {
            return;
        };
        if !std::mem::replace(&mut entry.is_closing, true) {
            // The descriptor is this connection's, because its admission still lives. Fails where
            // the client has closed it already.
            let _ = nix::sys::socket::shutdown(entry.socket, Shutdown::Both);
            *network -= 1;
            state.open -= 1;
            self.closed_idle.increment(1);
        }
    }

    fn remove(&self, address: IpAddr, id: u64) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(network) = state.networks.get_mut(&address) else {
            return;
        };
        if let Some(entry) = network.connections.remove(&id)
            && !entry.is_closing
        {
            network.open -= 1;
            state.open -= 1;
        }
        if network.connections.is_empty() {
            state.networks.remove(&address);
        }
        self.open_gauge.decrement(1);
    }
}

impl State {
    fn next_candidate(&mut self, now: u32) -> Option<Key> {
        let networks = self.networks.iter();
        let open =
            networks.flat_map(|(address, network)| open_ones(*address, &network.connections));
        self.candidates.next(now, open)
    }
}

/// The connections of a network that are not about to close.
fn open_ones(
    address: IpAddr,
    connections: &HashMap<u64, Entry>,
) -> impl Iterator<Item = (Key, &Arc<Activity>)> {
    connections
        .iter()
        .filter(|(_, entry)| !entry.is_closing)
        .map(move |(id, entry)| ((address, *id), &entry.activity))
}

/// The place of one connection among the open ones, until it is dropped: before its socket is
/// closed.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Arc<Connections>,
    address: IpAddr,
    id: u64,
    pub(super) activity: Arc<Activity>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.remove(self.address, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::super::activity::IDLE_TICKS;
    use super::*;

    fn connections(total: usize, per_network: usize) -> Arc<Connections> {
        let limits = Limits { total, per_network };
        let proxies = TrustedProxies::new(["10.0.0.1/32".parse().unwrap()]);
        Connections::new(limits, proxies)
    }

    /// A client's end and its admission with the socket.
    struct Open {
        client: UnixStream,
        admission: Admission,
        _socket: UnixStream,
    }

    impl Open {
        fn is_closed(&self) -> bool {
            self.client.set_nonblocking(true).unwrap();
            matches!((&self.client).read(&mut [0]), Ok(0))
        }
    }

    fn open(connections: &Arc<Connections>, peer: &str) -> Result<Open, Refusal> {
        let (client, socket) = UnixStream::pair().unwrap();
        let admission = connections.admit(peer.parse().unwrap(), socket.as_raw_fd())?;
        Ok(Open {
            client,
            admission,
            _socket: socket,
        })
    }

    fn wait(connections: &Connections) {
        (0..IDLE_TICKS).for_each(|_| connections.tick());
    }

    #[test]
    fn the_one_that_is_idle_for_the_longest_makes_room() {
        let connections = connections(3, 3);
        let first = open(&connections, "192.0.2.1").unwrap();
        connections.tick();
        let second = open(&connections, "192.0.2.2").unwrap();
        let third = open(&connections, "192.0.2.3").unwrap();
        wait(&connections);
        // Used later than the second was opened, and the third is in use.
        drop(first.admission.activity.begin());
        let request = third.admission.activity.begin();
        wait(&connections);
        let fourth = open(&connections, "192.0.2.4").unwrap();
        assert_eq!(
            [&first, &second, &third, &fourth].map(Open::is_closed),
            [false, true, false, false]
        );
        let fifth = open(&connections, "192.0.2.5").unwrap();
        assert!(first.is_closed() && !third.is_closed());
        // The others are new, or in use.
        assert_eq!(open(&connections, "192.0.2.6").err(), Some(Refusal::Total));
        drop(request);
        assert_eq!(open(&connections, "192.0.2.6").err(), Some(Refusal::Total));
        wait(&connections);
        assert!(open(&connections, "192.0.2.6").is_ok());
        drop(fifth);
        assert!(open(&connections, "192.0.2.7").is_ok());
    }

    #[test]
    fn candidates_that_have_gone_make_no_room() {
        let connections = connections(4, 4);
        let mut opened: Vec<_> = (0..4)
            .map(|_| open(&connections, "192.0.2.1").unwrap())
            .collect();
        wait(&connections);
        // The search finds all four; the first is closed, and two others leave by themselves.
        opened.push(open(&connections, "192.0.2.1").unwrap());
        assert!(opened[0].is_closed());
        opened.drain(1..3);
        opened.push(open(&connections, "192.0.2.1").unwrap());
        opened.push(open(&connections, "192.0.2.1").unwrap());
        assert_eq!(connections.state().open, 4);
        opened.push(open(&connections, "192.0.2.1").unwrap());
        assert!(opened[1].is_closed());
        assert_eq!(connections.state().open, 4);
    }

    #[test]
    fn a_network_takes_no_more_than_its_part() {
        let connections = connections(8, 2);
        let other = open(&connections, "192.0.2.1").unwrap();
        wait(&connections);
        let same = ["2001:db8::1", "2001:db8::2", "2001:db8::3"];
        let mut opened: Vec<Open> = Vec::new();
        for address in &same[..2] {
            opened.push(open(&connections, address).unwrap());
        }
        // Its own are too new, and nobody else's are closed for it.
        assert_eq!(open(&connections, same[2]).err(), Some(Refusal::Network));
        assert!(open(&connections, "2001:db8:0:1::1").is_ok());
        wait(&connections);
        opened.push(open(&connections, same[2]).unwrap());
        assert_eq!(
            [0, 1, 2].map(|at| opened[at].is_closed()),
            [true, false, false]
        );
        assert!(!other.is_closed());
        // A proxy speaks for many.
        let proxied: Vec<_> = (0..5).map(|_| open(&connections, "10.0.0.1")).collect();
        assert!(proxied.iter().all(Result::is_ok));
    }

    #[test]
    fn a_shortage_closes_what_is_idle_and_nothing_else() {
        let connections = connections(200, 200);
        let opened: Vec<_> = (0..100)
            .map(|_| open(&connections, "192.0.2.1").unwrap())
            .collect();
        let requests: Vec<_> = opened[..90]
            .iter()
            .map(|it| it.admission.activity.begin())
            .collect();
        wait(&connections);
        connections.make_room();
        let closed = opened.iter().filter(|it| it.is_closed()).count();
        assert_eq!((closed, requests.len()), (10, 90));
        drop(requests);
        wait(&connections);
        connections.make_room();
        assert_eq!(
            opened.iter().filter(|it| it.is_closed()).count(),
            10 + BATCH
        );
        drop(opened);
        assert_eq!(connections.state().open, 0);
        assert!(connections.state().networks.is_empty());
    }
}
