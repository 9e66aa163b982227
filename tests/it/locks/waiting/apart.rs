//! A node on a runtime of its own, which a test can kill or pause as a whole.

use std::time::Duration;

use lockable::locks::Engine;
use sqlx::postgres::PgConnectOptions;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::support::node::Node;

/// All tasks of the node share one thread.
#[derive(Debug)]
pub(super) struct Apart {
    pub(super) engine: Engine,
    runtime: std::sync::Mutex<Option<Runtime>>,
    is_dead: watch::Sender<bool>,
}

impl Apart {
    pub(super) async fn start(options: PgConnectOptions) -> Apart {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (is_started, started) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let node = Node::start(options).await;
            is_started.send(node.engine.clone()).unwrap();
            // It ticks for as long as the runtime lives.
            std::future::pending::<()>().await;
            drop(node);
        });
        Apart {
            engine: started.await.unwrap(),
            runtime: std::sync::Mutex::new(Some(runtime)),
            is_dead: watch::Sender::new(false),
        }
    }

    /// Ends everything that the node does, in the middle of it. Its connections are closed.
    pub(super) fn kill(&self) {
        let runtime = self.runtime.lock().unwrap().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
        self.is_dead.send_replace(true);
    }

    pub(super) fn lives(&self) -> bool {
        !*self.is_dead.borrow()
    }

    /// Returns when the node is killed: its clients notice that their connections are closed.
    pub(super) async fn death(&self) {
        let mut is_dead = self.is_dead.subscribe();
        // The sender lives as long as this.
        is_dead.wait_for(|is_dead| *is_dead).await.ok();
    }

    /// Lets the node do nothing for some time, without its noticing. Returns when that has begun.
    pub(super) async fn pause(&self, time: Duration) {
        let (is_paused, paused) = tokio::sync::oneshot::channel();
        if let Some(runtime) = &*self.runtime.lock().unwrap() {
            runtime.spawn(async move {
                is_paused.send(()).unwrap();
                std::thread::sleep(time);
            });
        }
        paused.await.unwrap();
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.kill();
    }
}
