//! What the calls that are made in a thread inherit: a deadline and a trace context.

use std::cell::RefCell;
use std::time::{Duration, Instant};

thread_local! {
    static CONTEXT: RefCell<Context> = const { RefCell::new(Context { deadline: None, traceparent: None }) };
}

/// What nested calls inherit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) deadline: Option<Instant>,
    pub(crate) traceparent: Option<String>,
}

impl Context {
    pub(crate) fn current() -> Context {
        CONTEXT.with_borrow(Clone::clone)
    }

    /// Makes it this thread's while `body` runs.
    pub(crate) fn within<T>(self, body: impl FnOnce() -> T) -> T {
        struct Back(Context);
        impl Drop for Back {
            fn drop(&mut self) {
                CONTEXT.set(std::mem::take(&mut self.0));
            }
        }
        let _back = Back(CONTEXT.replace(self));
        body()
    }
}

/// The W3C trace context of the call that runs in this thread, or that calls from it are to carry.
pub fn traceparent() -> Option<String> {
    CONTEXT.with_borrow(|c| c.traceparent.clone())
}

/// Runs `body` with this W3C trace context for its calls in this thread.
#[doc(alias = "traced")]
pub fn trace<T>(traceparent: impl Into<String>, body: impl FnOnce() -> T) -> T {
    let context = Context {
        traceparent: Some(traceparent.into()),
        ..Context::current()
    };
    context.within(body)
}

/// Limits the time of the calls that `body` makes in this thread; a nearer deadline stays.
#[doc(alias = "within")]
pub fn timeout<T>(time: Duration, body: impl FnOnce() -> T) -> T {
    let mut context = Context::current();
    let ours = Instant::now().checked_add(time);
    context.deadline = [ours, context.deadline].into_iter().flatten().min();
    context.within(body)
}
