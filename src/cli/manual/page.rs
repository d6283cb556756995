//! What a page of the manual is made of, whichever way it is written: for man(1), or for the documentation.
//!
//! Text has `code` between back quotes, and nothing else that is not read as it stands.

pub(super) struct Page {
    /// As man(1) is asked for it: `pysecure-up`.
    pub name: String,
    pub section: u8,
    /// One line.
    pub about: String,
    pub sections: Vec<Section>,
}

pub(super) struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

pub(super) enum Block {
    Text(String),
    /// What is explained, and the explanation.
    Item(String, String),
    /// Lines as they stand.
    Code(String),
    /// A heading within a section.
    Part(String),
}

impl Block {
    pub(super) fn text(text: &str) -> Block {
        Block::Text(text.to_owned())
    }

    pub(super) fn item(term: &str, text: &str) -> Block {
        Block::Item(term.to_owned(), text.to_owned())
    }

    pub(super) fn code(text: &str) -> Block {
        Block::Code(text.to_owned())
    }
}

impl Page {
    /// With a section that has something in it.
    pub(super) fn with(mut self, title: &str, blocks: Vec<Block>) -> Page {
        if !blocks.is_empty() {
            self.sections.push(Section {
                title: title.to_owned(),
                blocks,
            });
        }
        self
    }
}
