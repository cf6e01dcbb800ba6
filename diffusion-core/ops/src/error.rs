//! Error messages for a notebook or a terminal.

/// Joins an error and its causes in its message, since a notebook shows only the outermost message.
pub fn whole(error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::msg(message(&error))
}

/// An error and its causes on one line, as with `{error:#}`, but without the backtrace that candle adds if
/// `RUST_BACKTRACE` is set.
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
