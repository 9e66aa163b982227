//! Streams that are cut and resumed on any node, while two nodes record thousands of events.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use lockable::events::{Event, EventKind, Hub, Sight};
use lockable::locks::{AcquireOutcome, Engine, ReleaseOutcome};
use uuid::Uuid;

use super::kit::World;
use crate::support::prelude::*;

const LOCKS: usize = 12;
const WORKERS: usize = 8;
/// Grants of each worker; each has two events.
const GRANTS: usize = 650;

/// Takes and gives back locks, each time on any node.
async fn work(world: &World, engines: &[Engine; 2]) {
    let any = || &engines[rand::random_range(0..2)];
    let mut granted = 0;
    while granted < GRANTS {
        let name = format!("l{}", rand::random_range(0..LOCKS));
        let lease_id = Uuid::new_v4();
        let request = world.request(&name, lease_id);
        if let Ok(AcquireOutcome::Granted(_)) = any().acquire(request).await {
            let released = any().release(world.release(&name, lease_id)).await;
            assert_eq!(released, Ok(ReleaseOutcome::Released));
            granted += 1;
        }
    }
}

/// Watches, and is cut at random places, until it has seen the event `last` (once that is known).
async fn watch(world: &World, hubs: &[Hub; 2], name: Option<&str>, last: &AtomicI64) -> Vec<Event> {
    let mut seen: Vec<Event> = Vec::new();
    let mut position = Some(0);
    loop {
        let hub = &hubs[rand::random_range(0..2)];
        let mut watch = world.watch(hub, name, position).await;
        let cut_after = rand::random_range(1..400);
        for _ in 0..cut_after {
            let next = tokio::time::timeout(std::time::Duration::from_millis(700), watch.next());
            match next.await {
                Ok(Some(Sight::Event(event))) => {
                    position = Some(event.event_id);
                    seen.push(Arc::unwrap_or_clone(event));
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watcher was ended"),
                Err(_) => break,
            }
        }
        let last = last.load(Ordering::Acquire);
        if last > 0 && position >= Some(last) {
            return seen;
        }
    }
}

fn check_order(seen: &[Event]) {
    assert!(
        seen.is_sorted_by(|a, b| a.event_id < b.event_id),
        "twice, or not in the order of ids"
    );
    let mut held: HashMap<&str, Option<i64>> = HashMap::new();
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for event in seen {
        let (name, token) = (event.name.as_deref().unwrap(), event.fencing_token.unwrap());
        let holder = held.entry(name).or_default();
        match event.kind {
            EventKind::Granted => {
                assert_eq!(holder.replace(token), None, "{event:?}");
                assert!(newest.insert(name, token) < Some(token), "{event:?}");
            }
            EventKind::Released => assert_eq!(holder.take(), Some(token), "{event:?}"),
            _ => panic!("{event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_or_twice_and_each_lock_is_in_order() {
    let world = World::start().await;
    let other = world.app.another_node().await;
    let engines = [world.app.locks.clone(), other.locks.clone()];
    let hubs = [world.app.events.clone(), other.events.clone()];
    let last = AtomicI64::new(0);
    let working = async {
        futures_util::future::join_all((0..WORKERS).map(|_| work(&world, &engines))).await;
        let newest = eventually("all events are written", async || {
            let count = "SELECT count(*) FROM lock_events";
            let written = world.app.db.value::<i64>(count).await;
            if written < (WORKERS * GRANTS * 2) as i64 {
                return None;
            }
            let settled = "SELECT settled_event_id() = (SELECT max(event_id) FROM lock_events)";
            let newest = "SELECT max(event_id) FROM lock_events";
            let is_settled = world.app.db.value::<bool>(settled).await;
            is_settled.then_some(world.app.db.value::<i64>(newest).await)
        });
        last.store(newest.await, Ordering::Release);
    };
    // One of a lock ends at the newest event of that lock, which the others tell.
    let of_all = || watch(&world, &hubs, None, &last);
    let ((), first, second, third) = tokio::join!(working, of_all(), of_all(), of_all());
    let expected = world.table().await;
    assert_eq!(expected.len(), WORKERS * GRANTS * 2);
    for seen in [&first, &second, &third] {
        check_order(seen);
        let seen: Vec<(String, i16, i64)> = seen
            .iter()
            .map(|event| {
                let (name, token) = (event.name.clone().unwrap(), event.fencing_token.unwrap());
                (name, event.kind as i16, token)
            })
            .collect();
        assert_eq!(seen.len(), expected.len());
        assert_eq!(seen, expected);
    }
    // A watcher of one lock sees what of all is that lock's.
    let of_lock: Vec<&Event> = first
        .iter()
        .filter(|e| e.name.as_deref() == Some("l0"))
        .collect();
    let newest = AtomicI64::new(of_lock.last().unwrap().event_id);
    let seen = watch(&world, &hubs, Some("l0"), &newest).await;
    assert!(seen.iter().eq(of_lock));
}
