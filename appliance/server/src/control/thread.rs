//! The `control` thread, and what it listens with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use async_executor::{Executor, Task};
use async_io::Async;
use futures_rustls::TlsAcceptor;
use soft_kvm_platform::os::lockdown::{self, Class};
use soft_kvm_platform::os::net;
use soft_kvm_security::tls;

use super::door::Door;
use super::sockets::{Scope, Sockets};
use super::{listener, local};
use crate::context::{Context, lock};
use crate::lan;

/// The `control` thread with the executor that runs on it.
#[derive(Debug)]
pub(crate) struct Control {
    executor: Arc<Executor<'static>>,
    acceptor: Acceptor,
    door: Arc<Door>,
    stop: async_channel::Sender<()>,
    thread: JoinHandle<()>,
    ports: Mutex<Ports>,
}

/// A port that is listened at, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The same socket once more, for its options.
    socket: TcpListener,
    /// Where.
    pub(crate) address: SocketAddr,
    task: Task<()>,
}

#[derive(Debug)]
struct Ports {
    scope: Scope,
    port: u16,
    allow_routed: bool,
    open: BTreeMap<SocketAddr, Listening>,
    /// Private addresses that could not be listened at for now.
    missing: bool,
    /// Addresses of which it was said that there is no listener, and why.
    told: BTreeSet<IpAddr>,
}

#[derive(Clone)]
struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Control {
    /// Starts the thread with the TLS listeners and the local control socket on it.
    ///
    /// # Errors
    /// No thread or no descriptor is left, or the key is not one.
    pub(crate) fn start(
        context: &Arc<Context>,
        sockets: Sockets,
        local: UnixListener,
    ) -> anyhow::Result<Self> {
        let executor = Arc::new(Executor::new());
        let acceptor = Acceptor(TlsAcceptor::from(tls::server_config(&context.identity)?));
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let runner = Arc::clone(&executor);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || {
                lockdown::narrow(Class::Network);
                // Ends when the sender is dropped or used.
                let _ = async_io::block_on(runner.run(stopped.recv()));
            })?;
        executor
            .spawn(local::serve(
                Arc::clone(&executor),
                Async::new(local)?,
                Arc::clone(context),
            ))
            .detach();
        let control = Self {
            executor,
            acceptor,
            door: Door::new(Arc::clone(&context.metrics)),
            stop,
            thread,
            ports: Mutex::new(Ports {
                scope: sockets.scope,
                port: sockets.port,
                allow_routed: false,
                open: BTreeMap::new(),
                missing: false,
                told: BTreeSet::new(),
            }),
        };
        let allow_routed = context.story().control().allow_routed;
        control.take(context, sockets, allow_routed)?;
        Ok(control)
    }

    /// Listens with these, and no longer with what was before.
    fn take(
        &self,
        context: &Arc<Context>,
        sockets: Sockets,
        allow_routed: bool,
    ) -> anyhow::Result<()> {
        let mut open = BTreeMap::new();
        for listener in sockets.listeners {
            let listening = self.serve(context, listener)?;
            open.insert(listening.address, listening);
        }
        let mut ports = lock(&self.ports);
        ports.scope = sockets.scope;
        ports.port = sockets.port;
        ports.allow_routed = allow_routed;
        ports.open = open;
        ports.told.clear();
        drop(ports);
        self.follow_addresses(context);
        Ok(())
    }

    fn serve(&self, context: &Arc<Context>, listener: TcpListener) -> anyhow::Result<Listening> {
        let acceptor = self.acceptor.0.clone();
        let tasks = Arc::clone(&self.executor);
        let door = Arc::clone(&self.door);
        let context = Arc::clone(context);
        self.listen(listener, |listener| {
            listener::serve(tasks, listener, acceptor, door, context)
        })
    }

    /// Runs what serves a listener until the answer is dropped.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn listen<S: Future<Output: Send> + Send + 'static>(
        &self,
        listener: TcpListener,
        serve: impl FnOnce(Async<TcpListener>) -> S,
    ) -> anyhow::Result<Listening> {
        let (socket, address) = (listener.try_clone()?, listener.local_addr()?);
        let serve = serve(Async::new(listener)?);
        let task = self.executor.spawn(async move {
            serve.await;
        });
        Ok(Listening {
            socket,
            address,
            task,
        })
    }

    /// The executor of the thread.
    pub(crate) fn executor(&self) -> Arc<Executor<'static>> {
        Arc::clone(&self.executor)
    }

    /// Follows a story that was read again, and gives the port. What cannot be listened at leaves all as it was.
    ///
    /// # Errors
    /// In words for the log.
    pub(crate) fn reload(
        &self,
        context: &Arc<Context>,
        listen: Option<IpAddr>,
        port: u16,
        allow_routed: bool,
    ) -> anyhow::Result<u16> {
        let mut ports = lock(&self.ports);
        let (before, at, routed) = (ports.scope, ports.port, ports.allow_routed);
        let scope = match before {
            Scope::Given if port == at => Scope::Given,
            _ => Scope::of(listen, allow_routed),
        };
        if port == at && scope == before {
            for listening in ports.open.values() {
                listening.confine(allow_routed)?;
            }
            ports.allow_routed = allow_routed;
            ports.told.clear();
            drop(ports);
            self.follow_addresses(context);
            return Ok(port);
        }
        drop(ports);
        if port != at {
            let sockets = Sockets::open(scope, port, allow_routed)?;
            let port = sockets.port;
            self.take(context, sockets, allow_routed)?;
            return Ok(port);
        }
        // All addresses at once and each by itself cannot have the same port.
        self.close();
        match Sockets::open(scope, port, allow_routed) {
            Ok(sockets) => self.take(context, sockets, allow_routed)?,
            Err(error) => {
                self.take(context, Sockets::open(before, port, routed)?, routed)?;
                return Err(error);
            }
        }
        Ok(port)
    }

    /// Gives the port back before this returns.
    fn close(&self) {
        let open = std::mem::take(&mut lock(&self.ports).open);
        async_io::block_on(async {
            for listening in open.into_values() {
                listening.task.cancel().await;
            }
        });
    }

    /// Listens at private addresses that have come, and no more at those that have gone; says at which ones nobody is.
    pub(crate) fn follow_addresses(&self, context: &Arc<Context>) {
        let mut guard = lock(&self.ports);
        let ports = &mut *guard;
        if ports.allow_routed {
            return;
        }
        let addresses = match lan::Addresses::now() {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(%error, "the addresses of this machine cannot be read");
                return;
            }
        };
        if ports.scope == Scope::Private {
            self.listen_at_all(context, ports, addresses.private_at(ports.port).collect());
        }
        addresses.tell_public(&mut ports.told);
    }

    /// Listens at these addresses and at no others.
    fn listen_at_all(
        &self,
        context: &Arc<Context>,
        ports: &mut Ports,
        mut wanted: BTreeSet<SocketAddr>,
    ) {
        ports.open.retain(|at, _| wanted.remove(at));
        ports.missing = false;
        for at in wanted {
            match self.listen_at(context, at) {
                Ok(listening) => {
                    tracing::debug!(%at, "listening");
                    ports.told.remove(&at.ip());
                    ports.open.insert(at, listening);
                }
                Err(error) => {
                    ports.missing = true;
                    if ports.told.insert(at.ip()) {
                        tracing::warn!("nobody is answered at {at}: {error:#}");
                    }
                }
            }
        }
    }

    fn listen_at(&self, context: &Arc<Context>, at: SocketAddr) -> anyhow::Result<Listening> {
        let listener = net::listen_early(at)?;
        lan::confine(&listener, false)?;
        self.serve(context, listener)
    }

    /// Tries once more where it could not listen.
    pub(crate) fn retry(&self, context: &Arc<Context>) {
        let missing = lock(&self.ports).missing;
        if missing {
            self.follow_addresses(context);
        }
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        lock(&self.ports).port
    }

    /// Ends the thread. Sessions have been told before; their last messages get a moment to leave.
    pub(crate) fn stop(self) {
        std::thread::sleep(Duration::from_millis(50));
        let _ = self.stop.try_send(());
        if self.thread.join().is_err() {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Listening {
    /// Keeps answers on the link, or lets them go further.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn confine(&self, allow_routed: bool) -> anyhow::Result<()> {
        lan::confine(&self.socket, allow_routed).context("keeping answers on the link")
    }
}
