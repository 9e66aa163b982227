//! The asynchronous runtime of a command.

/// Runs one command's work; a command has little to do at once.
///
/// # Errors
/// If the system refuses what the runtime needs, such as a descriptor.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work))
}
