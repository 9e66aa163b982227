//! Clients that stand in one line, and all that becomes of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::apart::Apart;
use crate::support::history::{History, Operation, Outcome, Register, Request, Rules};
use crate::support::node::{ALICE, BOB, answer};
use crate::support::prelude::*;
use crate::support::wait::DEADLINE;

/// The length of leases, unless their holders are to die. Nothing waits for its end.
pub(super) const LEASE: Duration = Duration::from_secs(60);
pub(super) const WAIT: Duration = Duration::from_secs(60);
/// The lease of a holder that dies. The shortest that there is.
pub(super) const SHORT_LEASE: Duration = Duration::from_secs(1);

/// Two nodes, and what their clients learnt.
pub(super) struct Crowd {
    pub(super) db: Arc<Database>,
    pub(super) nodes: [Apart; 2],
    pub(super) history: History,
    /// How many clients were granted the lock so far.
    served: watch::Sender<usize>,
}

/// One client of a crowd.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) lock: String,
    /// Asks this node first.
    pub(super) node: usize,
    /// False: the node draws the lease id.
    pub(super) has_own_id: bool,
    /// Goes away after this time, if it still waits.
    pub(super) hangs_up_after: Option<Duration>,
    /// Takes the lock and is never heard of again.
    pub(super) dies: bool,
}

/// The end of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It was granted the lock, and released it or died.
    Served,
    HungUp,
}

impl Client {
    /// The patient client of a lock, on alternating nodes.
    pub(super) fn number(number: usize, lock: &str) -> Client {
        Client {
            lock: lock.to_owned(),
            node: number % 2,
            has_own_id: true,
            hangs_up_after: None,
            dies: false,
        }
    }
}

impl Crowd {
    /// Starts both nodes, each of which reaches the database in its own way.
    pub(super) async fn start(db: Arc<Database>) -> Arc<Crowd> {
        Register::keep(&db).await;
        let nodes = [
            Apart::start(db.options()).await,
            Apart::start(db.options()).await,
        ];
        // The first tick takes the time before the test for an outage.
        db.execute("UPDATE service_clock SET outage_start = 'epoch', outage_end = 'epoch'")
            .await;
        Arc::new(Crowd {
            db,
            nodes,
            history: History::new(),
            served: watch::Sender::new(0),
        })
    }

    /// Holds a lock, so that a line can form. The line moves when this is released.
    pub(super) async fn hold(&self, lock: &str) -> Uuid {
        let id = Uuid::new_v4();
        let request = Request::with_id(lock, id, Operation::Acquire);
        assert!(matches!(self.send(0, &request).await, Outcome::Held { .. }));
        id
    }

    pub(super) async fn release(&self, lock: &str, id: Uuid) {
        self.release_of(&Request::with_id(lock, id, Operation::Acquire), 0)
            .await;
    }

    /// Sends clients off, and returns when so many more tickets are in the database.
    pub(super) async fn gather(
        self: &Arc<Self>,
        clients: impl IntoIterator<Item = Client>,
    ) -> Vec<JoinHandle<End>> {
        let tickets = async || {
            let tickets = self.db.value::<i64>("SELECT count(*) FROM lock_tickets");
            tickets.await
        };
        let before = tickets().await;
        let clients: Vec<_> = clients
            .into_iter()
            .map(|client| tokio::spawn(self.clone().client(client)))
            .collect();
        let waiting = before + i64::try_from(clients.len()).unwrap();
        eventually("all of them wait", async || {
            (tickets().await == waiting).then_some(())
        })
        .await;
        clients
    }

    /// Waits until so many clients were granted the lock.
    pub(super) async fn served(&self, count: usize) {
        let mut served = self.served.subscribe();
        let reached = served.wait_for(|served| *served >= count);
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        reached.expect("the line moves").unwrap();
    }

    /// The ends of all clients, when there are.
    pub(super) async fn ends(&self, clients: Vec<JoinHandle<End>>) -> Vec<End> {
        let all = futures_util::future::join_all(clients);
        let Ok(ends) = tokio::time::timeout(2 * DEADLINE, all).await else {
            let tickets = self.db.value::<i64>("SELECT count(*) FROM lock_tickets");
            panic!(
                "{} were served, and {} still wait",
                *self.served.borrow(),
                tickets.await
            );
        };
        ends.into_iter().map(|end| end.unwrap()).collect()
    }

    /// Nobody is lost, nobody served twice, all in order; and when all have gone nothing is left.
    pub(super) async fn assert_in_order(&self, rules: Rules) -> Register {
        let left = "SELECT count(*) FROM lock_tickets WHERE NOT is_detached";
        eventually("no ticket is left", async || {
            (self.db.value::<i64>(left).await == 0).then_some(())
        })
        .await;
        let register = Register::read(&self.db).await;
        self.history.assert_holds_in_order(&register, rules);
        register
    }

    pub(super) async fn client(self: Arc<Self>, client: Client) -> End {
        let account = if client.node == 0 { ALICE } else { BOB };
        let own_id = client.has_own_id.then(Uuid::new_v4);
        let mut request = Request {
            wait: WAIT,
            length: Some(if client.dies { SHORT_LEASE } else { LEASE }),
            ..Request::new(&client.lock, account, own_id, Operation::Acquire)
        };
        let mut node = client.node;
        let patience = client.hangs_up_after.unwrap_or(Duration::MAX);
        let granted = tokio::time::timeout(patience, async {
            // A client that chose the id repeats the request until it is answered; each request
            // of one that did not is another one.
            loop {
                match self.send(node, &request).await {
                    Outcome::Held { .. } => break,
                    Outcome::Unknown | Outcome::Unheard => {}
                    other => panic!("{client:?} was answered {other:?}"),
                }
                request.drawn_id = Uuid::new_v4();
                node = self.another(node);
            }
        });
        if granted.await.is_err() {
            return End::HungUp;
        }
        self.served.send_modify(|served| *served += 1);
        if !client.dies {
            self.release_of(&request, node).await;
        }
        End::Served
    }

    fn another(&self, node: usize) -> usize {
        if self.nodes[1 - node].lives() {
            1 - node
        } else {
            node
        }
    }

    /// Ends the lease of an acquire, however often it has to be asked for.
    async fn release_of(&self, acquire: &Request, mut node: usize) {
        let request = Request {
            operation: Operation::Release,
            wait: Duration::ZERO,
            ..acquire.clone()
        };
        let mut is_in_doubt = false;
        loop {
            match self.send(node, &request).await {
                Outcome::Released => return,
                Outcome::Unknown | Outcome::Unheard => {
                    node = self.another(node);
                    is_in_doubt = true;
                }
                // A plain release that was in doubt may have been executed.
                Outcome::Lost if request.lease_id.is_none() && is_in_doubt => return,
                other => panic!("the release of {acquire:?} was answered {other:?}"),
            }
        }
    }

    pub(super) async fn send(&self, node: usize, request: &Request) -> Outcome {
        let node = &self.nodes[node];
        let call = async {
            tokio::select! {
                answer = answer(&node.engine, request, LEASE) => answer,
                () = node.death() => Outcome::Unheard.into(),
            }
        };
        self.history.record(request.clone(), call).await
    }

    /// The clients of a lock that were served, in the order of their grants, must be those of its
    /// tickets in their order, less those who left.
    pub(super) fn assert_complete(&self, register: &Register, lock: &str, served: usize) {
        let held: BTreeSet<Uuid> = self
            .history
            .row_ids(|call| {
                call.request.lock == lock
                    && call.request.operation == Operation::Acquire
                    && call.request.wait > Duration::ZERO
                    && matches!(call.outcome, Outcome::Held { .. })
            })
            .into_iter()
            .collect();
        assert_eq!(held.len(), served);
        let tickets: BTreeSet<Uuid> = register.tickets(lock).into_iter().collect();
        assert!(held.is_subset(&tickets), "all of them had a ticket");
    }
}
