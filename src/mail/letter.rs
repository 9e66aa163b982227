//! Letters.

/// A message to an account's owner. `Debug` leaves the text out: it holds the link.
#[derive(Clone)]
pub struct Letter {
    /// The recipient's e-mail address.
    pub to: String,
    /// One line, plain ASCII.
    pub subject: String,
    /// The text.
    pub body: String,
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letter")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}
