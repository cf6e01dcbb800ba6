//! Error messages for a notebook or a terminal.

/// An error with all its reasons in its own message: a notebook shows the outermost message only.
pub fn whole(error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::msg(message(&error))
}

/// An error and its reasons on one line, as `{error:#}` writes them, but without the stack that candle puts into its messages
/// where `RUST_BACKTRACE` is set: what is for a user does not hold it.
pub fn message(error: &anyhow::Error) -> String {
    use candle_core::Error::{Context, WithBacktrace, WithPath};
    fn plain(error: &candle_core::Error) -> String {
        match error {
            WithBacktrace { inner, .. } => plain(inner),
            Context { inner, context } => format!("{context}\n{}", plain(inner)),
            WithPath { inner, path } => format!("path: {path:?} {}", plain(inner)),
            other => other.to_string(),
        }
    }
    let reasons = error.chain().map(|reason| {
        let of_candle = reason.downcast_ref::<candle_core::Error>();
        of_candle.map_or_else(|| reason.to_string(), plain)
    });
    reasons.collect::<Vec<_>>().join(": ")
}
