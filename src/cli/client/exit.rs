//! Exit codes beyond those of every command: the numbers of sysexits.h where one fits.

/// The service answered `true`; the lock is held; it was done.
pub(super) const TRUE: u8 = 0;
/// The service answered `false`, and nothing else; the lock is free; nothing was broken.
pub(super) const FALSE: u8 = 1;
/// Called wrongly.
pub(super) const USAGE: u8 = 2;
/// The service could not be reached, or could not say.
pub(super) const UNAVAILABLE: u8 = 69;
/// This machine refused what the command needs: a descriptor, a process, `/proc`.
pub(in crate::cli) const SYSTEM: u8 = 71;
/// The outcome is known but could not be written to standard output.
pub(super) const OUTPUT: u8 = 74;
/// `run`: somebody else had the lock for as long as was waited, unless another code was asked for.
pub(super) const NOT_GRANTED: u8 = 75;
/// `run`: the lease was lost while the command ran, and the command was ended.
pub(super) const LEASE_LOST: u8 = 76;
/// The service refused the request: a bad token, or the plan does not allow it.
pub(super) const REFUSED: u8 = 77;
/// `run`: the command is there but cannot be run.
pub(super) const CANNOT_RUN: u8 = 126;
/// `run`: there is no such command.
pub(super) const NO_SUCH_COMMAND: u8 = 127;
