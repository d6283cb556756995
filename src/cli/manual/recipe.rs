//! pysecure-recipe(5): the keys of a jail's recipe.

use super::page::{Block, Page};

/// Key, type, and what it is; a test holds them to what is read.
#[rustfmt::skip]
pub(super) const KEYS: &[(&str, &str, &str)] = &[
    ("description", "string", "A text for the reader."),
    ("extends", "string", "Another recipe, whose lists come first."),
    ("packages", "list of strings", "Debian packages that are installed on this host: all of their files but documentation."),
    ("with_dependencies", "boolean", "Add the packages that those depend on, of those that are installed here, at most 500."),
    ("requirements", "path", "A requirements file of pip, beside the manifest. `pysecure jail build` makes a virtual environment of it, which is `/venv` in the jail and first in its `PATH`."),
    ("image", "path", "An image on disk, relative to the manifest: an OCI layout, or an archive as `docker save` writes it. It is the whole root."),
    ("tag", "string", "Which image, if there are several in it."),
    ("debian", "table", "A Debian that mmdebstrap(1) makes, which is the whole root: `suite`, `packages`, `variant` and `mirror`."),
    ("binaries", "list of strings", "Programs, by name or path."),
    ("paths", "list of strings", "Files, or directories with all that is in them."),
    ("globs", "list of strings", "Files by pattern. Each pattern must match something."),
    ("optional", "list of strings", "Paths and patterns that need not be there."),
    ("exclude", "list of strings", "Patterns of files to leave out of directories, of packages, and of what libraries open by name."),
    ("links", "table: path → target", "Symbolic links to create."),
    ("directories", "list of paths", "Empty directories to create."),
    ("bind", "list of paths", "Host paths and patterns to mount in place of copies. Then no other list may be there but `directories`."),
];

pub(super) fn page() -> Page {
    let page = Page {
        name: "pysecure-recipe".to_owned(),
        section: 5,
        about: "recipe of a jail, a root file system for services".to_owned(),
        sections: Vec::new(),
    };
    let keys = KEYS
        .iter()
        .map(|(key, kind, text)| Block::Item(format!("`{key}`"), format!("({kind}) {text}")))
        .collect();
    page.with("SYNOPSIS", vec![Block::text("`jails/NAME.toml` beside the manifest")])
        .with("DESCRIPTION", vec![
            Block::text("A recipe lists files of this host that go into a jail. A service has that root with the key `jail = \"NAME\"`. What is listed brings along what it needs: the dynamic linker, libraries, interpreters of scripts, and targets of links. Programs are read for that, and not run."),
            Block::text("PySecure has recipes of its own: `minimal`, `python`, `node`, `nginx`, `apache`, `debian` and `oci`. A recipe of the same name in `jails` takes the place of one of them. `host`, the default of `jail`, mounts the host's programs and libraries and is no jail."),
            Block::text("Set-id bits, devices and pipes are left out. All services of the jail may read all of its files."),
        ])
        .with("KEYS", keys)
        .with("EXAMPLES", vec![
            Block::text("Python with two packages of Debian, without their documentation and tests:"),
            Block::code("extends = \"python\"\npackages = [\"python3-flask\", \"python3-jinja2\"]\nwith_dependencies = true\nexclude = [\"/usr/lib/python3*/test\"]"),
            Block::text("Some programs, and a link:"),
            Block::code("extends = \"minimal\"\nbinaries = [\"redis-server\", \"redis-cli\"]\nlinks = { \"/usr/bin/redis\" = \"redis-cli\" }"),
        ])
        .with("SEE ALSO", vec![Block::text("`pysecure(1)`, `pysecure-jail(1)`, `pysecure-jail-build(1)`, `pysecure-jail-trace(1)`, `pysecure.toml(5)`")])
}
