//! One order service as a child process: started again whenever it ends, until it is told to finish.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use super::end::End;
use super::points::Point;

/// Pause before an ended process is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Longest that a process may take to end after SIGTERM: its grace of six seconds, and a margin for a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(12);
/// Commands that wait for a replica: a few faults at most.
const COMMANDS: usize = 16;

/// How to start a replica.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its name among its peers.
    pub name: String,
    /// The order service, built with its fail points.
    pub program: PathBuf,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Where its log goes.
    pub log: PathBuf,
}

/// A handle on a replica; dropped, the process is killed.
#[derive(Debug)]
pub struct Replica {
    /// Its name among its peers.
    pub name: String,
    /// Base URL of its public API.
    pub http: String,
    /// Base URL of its admin port.
    pub admin: String,
    commands: mpsc::Sender<Ask>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default, Debug)]
struct Shared {
    ends: Vec<End>,
    /// Times it did not end on SIGTERM in time.
    hung: usize,
    /// Points of the starts to come.
    points: VecDeque<Point>,
    /// Points of the starts so far.
    armed: Vec<Point>,
    /// The point of the process that runs now.
    current: Option<Point>,
    /// Bytes in the log before the process that runs now.
    log_before: usize,
}

/// What a replica can be told; each is answered with whether there was a process to do it to.
#[derive(Debug)]
enum Ask {
    Signal(Signal, oneshot::Sender<bool>),
    Kill(oneshot::Sender<bool>),
    Stop { restart: bool, done: oneshot::Sender<Option<ExitStatus>> },
}

impl Replica {
    /// Starts it on two free ports.
    ///
    /// # Errors
    /// When there is no free port or the program can't be started.
    pub async fn start(mut start: Start) -> anyhow::Result<Self> {
        let (http, admin) = (free_address().await?, free_address().await?);
        start.environment.insert("HTTP_ADDR".to_owned(), http.clone());
        start.environment.insert("ADMIN_ADDR".to_owned(), admin.clone());
        start.environment.insert("POD_NAME".to_owned(), start.name.clone());
        let (commands, received) = mpsc::channel(COMMANDS);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let name = start.name.clone();
        let keeper = Keeper { start, shared: Arc::clone(&shared), received };
        let child = keeper.spawn()?;
        tokio::spawn(keeper.keep(child));
        Ok(Self { name, http: format!("http://{http}"), admin: format!("http://{admin}"), commands, shared })
    }

    /// The points that its next starts arm, one each.
    pub fn arm(&self, points: impl IntoIterator<Item = Point>) {
        self.lock().points = points.into_iter().collect();
    }

    /// Every end of its process so far.
    #[must_use]
    pub fn ends(&self) -> Vec<End> {
        self.lock().ends.clone()
    }

    /// How often it did not end on SIGTERM in time, and was killed.
    #[must_use]
    pub fn hung(&self) -> usize {
        self.lock().hung
    }

    /// How many of its processes have ended so far, one way or another.
    #[must_use]
    pub fn processes_ended(&self) -> usize {
        let shared = self.lock();
        shared.ends.len() + shared.hung
    }

    /// Every point that was armed so far.
    #[must_use]
    pub fn armed(&self) -> Vec<Point> {
        self.lock().armed.clone()
    }

    /// Sends a signal; false when there is no process just now.
    pub async fn signal(&self, signal: Signal) -> bool {
        self.tell(|done| Ask::Signal(signal, done)).await.unwrap_or(false)
    }

    /// SIGKILL, and a new process after it.
    pub async fn kill(&self) -> bool {
        self.tell(Ask::Kill).await.unwrap_or(false)
    }

    /// SIGTERM, and a new process once it has ended. `None` when there is none or it does not end in time.
    pub async fn restart(&self) -> Option<ExitStatus> {
        self.tell(|done| Ask::Stop { restart: true, done }).await.flatten()
    }

    /// SIGTERM for good. `None` when it does not end in time.
    pub async fn finish(&self) -> Option<ExitStatus> {
        self.tell(|done| Ask::Stop { restart: false, done }).await.flatten()
    }

    async fn tell<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.ok()?;
        answer.await.ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port that is free now; the service binds it in a moment, and again after each restart.
async fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to find a free port")?;
    Ok(listener.local_addr()?.to_string())
}

/// The task that owns the process.
struct Keeper {
    start: Start,
    shared: Arc<Mutex<Shared>>,
    received: mpsc::Receiver<Ask>,
}

impl Keeper {
    async fn keep(mut self, mut child: Child) {
        loop {
            if !self.attend(&mut child).await {
                return;
            }
            tokio::time::sleep(RESTART_PAUSE).await;
            match self.spawn() {
                Ok(next) => child = next,
                // Commands are then answered as if there were no process, and the run does not recover.
                Err(_) => return,
            }
        }
    }

    /// Does what it is told until the process ends; false when it is not to be started again.
    async fn attend(&mut self, child: &mut Child) -> bool {
        loop {
            tokio::select! {
                status = child.wait() => {
                    self.ended(status.ok(), None);
                    return true;
                }
                command = self.received.recv() => match command {
                    None => return false,
                    Some(Ask::Signal(signal, done)) => _ = done.send(send(child, signal)),
                    Some(Ask::Kill(done)) => {
                        let sent = send(child, Signal::KILL);
                        let status = child.wait().await.ok();
                        self.ended(status, Some(Signal::KILL));
                        let by_us = status.and_then(|status| status.signal()) == Some(Signal::KILL.as_raw());
                        let _ = done.send(sent && by_us);
                        return true;
                    }
                    Some(Ask::Stop { restart, done }) => {
                        let status = stop(child).await;
                        self.ended(status, Some(Signal::TERM));
                        let _ = done.send(status);
                        return restart;
                    }
                }
            }
        }
    }

    fn ended(&self, status: Option<ExitStatus>, told: Option<Signal>) {
        // A log that can't be read excuses nothing.
        let log = fs::read(&self.start.log).unwrap_or_default();
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let armed = shared.current.take();
        let log = String::from_utf8_lossy(log.get(shared.log_before..).unwrap_or_default()).into_owned();
        shared.hung += usize::from(status.is_none());
        shared.ends.extend(status.map(|status| End { status, told, armed, log }));
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let Start { program, environment, log, .. } = &self.start;
        let log: File = OpenOptions::new().create(true).append(true).open(log)?;
        let log_before = usize::try_from(log.metadata()?.len())?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.log_before = log_before;
        if let Some(point) = shared.points.pop_front() {
            command.env("FAILPOINTS", point.spec());
            shared.armed.push(point);
            shared.current = Some(point);
        }
        command.spawn().with_context(|| format!("failed to start {}", program.display()))
    }
}

/// SIGTERM, and SIGKILL when that does not end it in time.
async fn stop(child: &mut Child) -> Option<ExitStatus> {
    // A stopped process does not see SIGTERM.
    send(child, Signal::CONT);
    send(child, Signal::TERM);
    if let Ok(ended) = tokio::time::timeout(STOP_DEADLINE, child.wait()).await {
        return ended.ok();
    }
    send(child, Signal::KILL);
    let _ = child.wait().await;
    None
}

/// The process is our child and not yet waited for, so its number is still its own.
fn send(child: &Child, signal: Signal) -> bool {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}
