//! The app's own code, called so that its panic becomes an error.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `call` returns, or the message of its panic. (Where the app is built with `panic = "abort"`
/// nothing can be caught.)
///
/// Whatever `call` borrowed must not be relied on after a panic: the training that it was part of ends.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| message(&*panic))
}

/// The text that a panic was started with.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        let plain: Result<(), String> = caught(|| panic!("plain"));
        assert_eq!(plain, Err("plain".into()));
        let made: Result<(), String> = caught(|| panic!("made {}", 7));
        assert_eq!(made, Err("made 7".into()));
        let other: Result<(), String> = caught(|| std::panic::panic_any(7));
        assert_eq!(other, Err("no message".into()));
    }
}
