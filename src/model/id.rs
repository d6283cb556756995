//! Ids of what a manifest declares: positions in the model's lists, in the order of declaration. Each kind is a type of
//! its own, and indexes only the lists that are kept for it.

use std::fmt;

macro_rules! id {
    ($(#[$text:meta])* $name:ident) => {
        $(#[$text])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(usize);

        impl $name {
            pub fn new(position: usize) -> $name {
                $name(position)
            }

            pub fn position(self) -> usize {
                self.0
            }

            /// The ids of a list that is kept for them.
            pub fn all<T>(list: &[T]) -> impl DoubleEndedIterator<Item = $name> + ExactSizeIterator + Clone + use<T> {
                (0..list.len()).map($name)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id! {
    /// Index into [`Model::resources`](super::Model::resources).
    ResourceId
}
id! {
    /// Index into [`Model::bundles`](super::Model::bundles).
    BundleId
}
id! {
    /// Index into [`Model::services`](super::Model::services).
    ServiceId
}
id! {
    /// Index into [`Model::sandboxes`](super::Model::sandboxes).
    SandboxId
}

/// Lets a list be indexed by the ids that it is kept for.
macro_rules! indexed_by {
    ($id:ty: $item:ty) => {
        $crate::model::indexed_by!($id: $item, Vec<$item>);
        $crate::model::indexed_by!($id: $item, [$item]);
    };
    ($id:ty: $item:ty, $list:ty) => {
        impl std::ops::Index<$id> for $list {
            type Output = $item;

            fn index(&self, id: $id) -> &$item {
                &self[id.position()]
            }
        }

        impl std::ops::IndexMut<$id> for $list {
            fn index_mut(&mut self, id: $id) -> &mut $item {
                &mut self[id.position()]
            }
        }
    };
}
pub(crate) use indexed_by;

indexed_by!(ResourceId: super::Resource);
indexed_by!(BundleId: super::Bundle);
indexed_by!(ServiceId: super::Service);
indexed_by!(SandboxId: super::Sandbox);
