//! Messages between `lockable run` and its watchdog: one JSON value a line, over a pair of
//! sockets. The end of the stream means that the other process has ended.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};

use super::lease::Deadlines;

/// From `run` to the watchdog.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The lock is held: start the command.
    Start {
        environment: Vec<(String, String)>,
        deadlines: Deadlines,
        /// Between SIGTERM and SIGKILL, if the job is ended before its deadline.
        grace: Duration,
    },
    /// The lease was renewed.
    Renewed(Deadlines),
    /// Pass a signal on to the job.
    Signal(i32),
    /// The lease is lost: end the job.
    End,
}

/// From the watchdog to `run`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The watchdog has all that it needs.
    Ready,
    /// The command runs; its process id is its group's too.
    Started { pid: i32 },
    /// The command cannot be run.
    NotStarted { is_missing: bool, message: String },
    /// A signal has stopped the command.
    Stopped { signal: i32 },
    /// The command has ended, with this exit code; other processes of the job may run on.
    CommandEnded { code: u8 },
    /// The lease was not renewed in time: the job is being ended.
    Ending,
    /// These processes belong to another user, and could not be killed.
    Unkillable { pids: Vec<i32> },
    /// Nothing of the job runs.
    Finished,
}

/// Sends messages. An error is ignored: the other process has ended, which the receiver notices.
#[derive(Debug)]
pub(super) struct Sender(UnixStream);

/// Receives messages.
#[derive(Debug)]
pub(super) struct Receiver(Lines<BufReader<tokio::net::UnixStream>>);

/// Both directions of a socket.
///
/// # Errors
/// If the runtime cannot watch it.
pub(super) fn channel(socket: UnixStream) -> io::Result<(Sender, Receiver)> {
    socket.set_nonblocking(true)?;
    let receiving = tokio::net::UnixStream::from_std(socket.try_clone()?)?;
    Ok((Sender(socket), Receiver(BufReader::new(receiving).lines())))
}

impl Sender {
    /// Never waits: messages are small, and a socket holds hundreds of them.
    pub(super) fn send(&self, message: &impl Serialize) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            let _ = (&self.0).write_all(&line);
        }
    }
}

impl Receiver {
    /// The next message; `None` once the other process has ended.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let line = self.0.next_line().await.ok()??;
        serde_json::from_str(&line).ok()
    }
}

/// Sends an open file to the process at the other end, with one byte.
///
/// # Errors
/// If the socket does not take it.
pub(super) fn send_file(socket: &UnixStream, file: impl AsFd) -> io::Result<()> {
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&files));
    sendmsg(
        socket,
        &[io::IoSlice::new(b"\n")],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Receives what [`send_file`] has sent.
///
/// # Errors
/// If there is none.
pub(super) fn receive_file(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut bytes = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no file was received"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[tokio::test]
    async fn files_and_messages_arrive_and_the_end_is_noticed() {
        let mut sent = tempfile::tempfile().unwrap();
        sent.write_all(b"hello").unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        send_file(&ours, &sent).unwrap();
        let mut received = std::fs::File::from(receive_file(&theirs).unwrap());
        let mut text = String::new();
        received.rewind().unwrap();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        let (sender, other_receiver) = channel(ours).unwrap();
        let (_sender, mut receiver) = channel(theirs).unwrap();
        sender.send(&Order::Signal(15));
        sender.send(&Order::End);
        assert!(matches!(receiver.next().await, Some(Order::Signal(15))));
        assert!(matches!(receiver.next().await, Some(Order::End)));
        drop((sender, other_receiver));
        assert!(receiver.next::<Order>().await.is_none());
    }
}
