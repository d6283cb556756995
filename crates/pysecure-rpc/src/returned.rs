//! What a function gives back: one value, or a stream of them.

use crate::client::{Known, Pending};
use crate::connection::{Answer, Fill};
use crate::error::Error;
use crate::reply::Reply;
use crate::types::Typed;
use pysecure_wire::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A result as it crosses. All that serde knows, and [`Stream`].
pub trait Returned: Sized {
    /// Is it a stream?
    const STREAM: bool;
    /// As [`Typed::text`].
    fn text(within: &mut Vec<&'static str>) -> String;
    /// In the service: answers with it.
    #[doc(hidden)]
    fn serve(self, reply: &mut Reply<'_>) -> Result<(), Error>;
    /// At the caller.
    #[doc(hidden)]
    fn call(service: &str, name: &str, arguments: Fill<'_>, known: Known<'_>) -> Result<Self, Error>;
}

impl<T: Serialize + DeserializeOwned + Typed> Returned for T {
    const STREAM: bool = false;

    fn text(within: &mut Vec<&'static str>) -> String {
        <T as Typed>::text(within)
    }

    fn serve(self, reply: &mut Reply<'_>) -> Result<(), Error> {
        reply.value(&self)
    }

    fn call(service: &str, name: &str, arguments: Fill<'_>, known: Known<'_>) -> Result<Self, Error> {
        match Pending::begin(service, name, arguments, Some(known))? {
            (Answer::Whole(value), _) => crate::from_value(value),
            _ => Err(Error::Type(format!("`{name}` answers with a stream"))),
        }
    }
}

/// A result that comes bit by bit: the service makes the next item when the caller has taken the one before. Dropped
/// before its end, it ends in the service as well.
pub struct Stream<T>(Source<T>);

enum Source<T> {
    Here(Box<dyn Iterator<Item = Result<T, Error>> + Send>),
    There {
        first: Option<Value>,
        pending: Box<Pending>,
    },
}

impl<T: 'static> Stream<T> {
    /// Of what an iterator gives; an error is the last item.
    pub fn new(items: impl IntoIterator<Item = Result<T, Error>, IntoIter: Send + 'static>) -> Stream<T> {
        Stream(Source::Here(Box::new(items.into_iter())))
    }

    /// Of values alone.
    pub fn of(items: impl IntoIterator<Item = T, IntoIter: Send + 'static>) -> Stream<T> {
        Stream(Source::Here(Box::new(items.into_iter().map(Ok))))
    }
}

impl<T: DeserializeOwned> Iterator for Stream<T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Result<T, Error>> {
        match &mut self.0 {
            Source::Here(items) => items.next(),
            Source::There { first, pending } => match first.take() {
                Some(first) => Some(crate::from_value(first)),
                None => pending.next().transpose().map(|item| item.and_then(crate::from_value)),
            },
        }
    }
}

impl<T: Serialize + DeserializeOwned + Typed> Returned for Stream<T> {
    const STREAM: bool = true;

    fn text(within: &mut Vec<&'static str>) -> String {
        format!("stream[{}]", T::text(within))
    }

    fn serve(self, reply: &mut Reply<'_>) -> Result<(), Error> {
        self.into_iter().try_for_each(|item| reply.item(&item?))?;
        reply.end()
    }

    fn call(service: &str, name: &str, arguments: Fill<'_>, known: Known<'_>) -> Result<Self, Error> {
        let (answer, pending) = Pending::begin(service, name, arguments, Some(known))?;
        let first = match answer {
            Answer::Item(first) => Some(first),
            Answer::End(_) => None,
            Answer::Whole(_) => return Err(Error::Type(format!("`{name}` answers with no stream"))),
        };
        let pending = Box::new(pending);
        Ok(Stream(Source::There { first, pending }))
    }
}
