//! Jails: read-only roots put together from a recipe, with all that its programs need, and kept in a store.
//!
//! [`recipe`] reads what is named, [`collect`] finds what that needs ([`elf`] and [`opened`] for programs and libraries,
//! [`packages`] for Debian's packages), [`image`] does so for images, [`store`] keeps it. All but the last only read the host, so a plan may use them; no program of the host
//! is run, but by [`inputs`], and only when somebody says `jail build`.

pub mod collect;
pub mod elf;
mod error;
mod hash;
pub mod image;
pub mod inputs;
pub mod listing;
pub mod opened;
pub mod packages;
pub mod recipe;
pub mod store;

pub use error::JailError;

use listing::Listing;
use recipe::Recipe;
use store::{Count, Store};

/// What a recipe comes to now.
pub fn work_out(store: &Store, name: &str, recipe: &Recipe) -> Result<Listing, JailError> {
    let listing = listing(store, name, recipe)?;
    listing.check()?;
    Ok(listing)
}

fn listing(store: &Store, name: &str, recipe: &Recipe) -> Result<Listing, JailError> {
    let image = match (&recipe.image, &recipe.debian) {
        (Some(path), _) => image::Image::open(path, recipe.tag.as_deref())?,
        (None, Some(debian)) => image::Image::of_tar(&inputs::debian(store, name, debian)?)?,
        (None, None) => {
            let venv = match &recipe.requirements {
                Some(list) => Some(inputs::venv(store, name, list)?),
                None => None,
            };
            return collect::collect(name, recipe, venv.as_deref());
        }
    };
    let image = std::sync::Arc::new(image);
    if let Some(known) = store.known_image(&image, recipe) {
        return Ok(known);
    }
    let mut listing = image::layers::listing(&image, &recipe::patterns(&recipe.exclude)?)?;
    listing::add_directories(&mut listing, &recipe.directories, &format!("recipe {name} names it"))?;
    Ok(listing)
}

/// Makes the tree of a listing, [`Store::build`].
pub fn build(
    store: &Store,
    listing: &Listing,
    recipe: &Recipe,
    thoroughly: bool,
) -> Result<(String, Count), JailError> {
    store.build(listing, recipe, inputs::names(store, recipe)?, thoroughly)
}
