//! Images as jails: what the layers of an OCI layout or a docker-archive come to, and images that are made to do harm.

mod harness;

use flate2::{Compression, write::GzEncoder};
use harness::{App, BOTH, Mode};
use proptest::prelude::*;
use pysecure::jail::JailError;
use pysecure::jail::image::{Image, layers::listing};
use pysecure::jail::listing::Listing;
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::{EntryType, Header};

enum Entry<'a> {
    Dir(&'a str),
    File(&'a str, &'a [u8], u32),
    Link(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Node(&'a str),
}

fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in entries {
        let (name, kind, content, mode, link): (&str, _, &[u8], u32, &str) = match entry {
            Entry::Dir(name) => (name, EntryType::Directory, b"", 0o755, ""),
            Entry::File(name, content, mode) => (name, EntryType::Regular, content, *mode, ""),
            Entry::Link(name, to) => (name, EntryType::Symlink, b"", 0o777, to),
            Entry::Hard(name, to) => (name, EntryType::Link, b"", 0o644, to),
            Entry::Node(name) => (name, EntryType::Char, b"", 0o666, ""),
        };
        let mut head = Header::new_gnu();
        // As it stands: the crate's own way refuses names that a hostile image has.
        head.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        head.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        head.set_entry_type(kind);
        head.set_size(content.len() as u64);
        head.set_mode(mode);
        head.set_mtime(1_700_000_000);
        if kind == EntryType::Char {
            head.set_device_major(1).unwrap();
            head.set_device_minor(3).unwrap();
        }
        head.set_cksum();
        out.append(&head, content).unwrap();
    }
    out.into_inner().unwrap()
}

/// A header that claims this size, and what it is followed by.
fn raw(name: &str, kind: EntryType, size: u64, content: &[u8]) -> Vec<u8> {
    let mut head = Header::new_gnu();
    head.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    head.set_entry_type(kind);
    head.set_size(size);
    head.set_mode(0o644);
    head.set_mtime(0);
    head.set_cksum();
    let mut out = head.as_bytes().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

/// An entry whose name, or the target of the link that it is, is longer than its header holds.
fn long(name: &str, target: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    for (text, kind) in [(Some(name), EntryType::GNULongName), (target, EntryType::GNULongLink)] {
        if let Some(text) = text {
            out.extend(raw("././@LongLink", kind, text.len() as u64, text.as_bytes()));
        }
    }
    let kind = target.map_or(EntryType::Regular, |_| EntryType::Symlink);
    out.extend(raw("short", kind, 0, b""));
    out
}

/// Records of pax for the entry that follows.
fn records(all: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in all {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len();
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        text += &format!("{length}{rest}");
    }
    raw("records", EntryType::XHeader, text.len() as u64, text.as_bytes())
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn digest(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let diffs: Vec<String> = layers.iter().map(|l| format!("sha256:{}", digest(l))).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["COLOUR=red", "PATH=/app:/usr/bin:/bin"], "User": "wanda" },
        "rootfs": { "type": "layers", "diff_ids": diffs },
    }))
    .unwrap()
}

/// Writes an OCI layout beside the manifest. `packed`: the layers as they lie there.
fn layout(app: &App, folder: &str, layers: &[Vec<u8>], packed: &[Vec<u8>]) {
    let blob = |data: &[u8], kind: &str| {
        let name = digest(data);
        app.write(&format!("{folder}/blobs/sha256/{name}"), data);
        serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{name}"), "size": data.len() })
    };
    let config = blob(&config(layers), "application/vnd.oci.image.config.v1+json");
    let packed: Vec<_> = packed
        .iter()
        .map(|l| blob(l, "application/vnd.oci.image.layer.v1.tar+gzip"))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": packed
    });
    let manifest = blob(
        &serde_json::to_vec(&manifest).unwrap(),
        "application/vnd.oci.image.manifest.v1+json",
    );
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    app.write(&format!("{folder}/index.json"), serde_json::to_vec(&index).unwrap());
    app.write(&format!("{folder}/oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#);
}

fn archive(app: &App, name: &str, layers: &[Vec<u8>]) {
    app.write(name, saved(layers));
}

/// As `docker save` writes it.
fn saved(layers: &[Vec<u8>]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    let mut put = |name: &str, data: &[u8]| {
        let mut head = Header::new_gnu();
        head.set_size(data.len() as u64);
        head.set_mode(0o644);
        out.append_data(&mut head, name, data).unwrap();
    };
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    put("config.json", &config(layers));
    for (name, layer) in names.iter().zip(layers) {
        put(name, layer);
    }
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["app:latest"], "Layers": names }]);
    put("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    out.into_inner().unwrap()
}

fn image() -> Vec<Vec<u8>> {
    let busybox = std::fs::read("/bin/busybox").expect("install busybox-static");
    vec![
        layer(&[
            Entry::Dir("bin"),
            Entry::File("bin/busybox", &busybox, 0o4755),
            Entry::Link("bin/sh", "busybox"),
            Entry::Link("bin/cat", "/bin/busybox"),
            Entry::Hard("bin/ls", "bin/busybox"),
            Entry::Link("lib", "usr/lib"),
            Entry::File("etc/passwd", b"root:x:0:0::/root:/bin/sh\nwanda:x:1000:1000::/home/wanda:/bin/sh\n", 0o644),
            Entry::File("etc/app/old", b"old\n", 0o644),
            Entry::File("etc/app/gone", b"gone\n", 0o644),
            Entry::File("srv/hidden/a", b"a\n", 0o644),
            Entry::File("srv/hidden/b", b"b\n", 0o644),
            Entry::Dir("home/wanda"),
        ]),
        layer(&[
            // Through the lower layer's link.
            Entry::File("lib/added", b"added\n", 0o644),
            Entry::File("etc/app/.wh.gone", b"", 0o644),
            Entry::File("etc/app/old", b"new\n", 0o600),
            Entry::File("srv/hidden/c", b"c\n", 0o644),
            Entry::File("srv/hidden/.wh..wh..opq", b"", 0o644),
            Entry::File("app/run", b"#!/bin/sh\necho $COLOUR $USER $HOME; cat /usr/lib/added /etc/app/old; ls /srv/hidden /etc/app\nexec sh -c 'while true; do /bin/busybox sleep 1000; done'\n", 0o755),
        ]),
    ]
}

fn manifest(name: &str) -> String {
    format!("[app]\nname = \"{name}\"\n[services.main]\ncommand = \"run\"\njail = \"oci\"\n")
}

#[test]
fn a_service_runs_in_an_image() {
    for mode in BOTH {
        for kind in ["layout", "archive"] {
            let app = App::new(mode, &manifest("image"));
            let layers = image();
            match kind {
                "layout" => {
                    let packed = [gzip(&layers[0]), layers[1].clone()];
                    layout(&app, "image", &layers, &packed);
                }
                _ => archive(&app, "image.tar", &layers),
            }
            app.ok(&["up", "-d"]);
            let all = app.wait_for_log("main", "old");
            assert!(all.contains("red wanda /home/wanda"), "{all}");
            assert!(all.contains("added") && all.contains("new"), "{all}");
            let listed = app.sh("main", "ls /srv/hidden; ls /etc/app").ok().out;
            assert_eq!(listed, "c\nold\n");
            assert_ne!(app.sh("main", "echo x > /etc/app/old").code, 0);
            let why = app.ok(&["jail", "why", "/etc/app/old", "oci"]).out;
            assert!(why.contains("layer 1 of"), "{why}");
            // Known again without a look at its layers.
            let again = app.ok(&["jail", "build", "oci"]).out;
            assert!(again.contains("(0 B new)"), "{again}");
        }
    }
}

#[test]
fn zstd_and_several_images_in_one_layout() {
    let app = App::new(Mode::Root, &manifest("imagezstd"));
    let layers = vec![layer(&[Entry::File("etc/x", b"x", 0o644)])];
    let script = "zstd -q -c";
    let mut child = std::process::Command::new("sh")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&layers[0]).unwrap();
    let packed = child.wait_with_output().unwrap();
    assert!(packed.status.success(), "install zstd");
    layout(&app, "image", &layers, &[packed.stdout]);
    assert!(app.ok(&["jail", "show", "oci"]).out.contains("/etc/x  1 B"));
    let index = app.folder.join("image/index.json");
    let mut all: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let mut second = all["manifests"][0].clone();
    second["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "two" });
    all["manifests"][0]["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "one" });
    all["manifests"].as_array_mut().unwrap().push(second);
    app.write("image/index.json", serde_json::to_vec(&all).unwrap());
    let several = app.run(&["jail", "show", "oci"]);
    assert!(several.err.contains("name one by `tag`"), "{}", several.err);
    app.write("jails/one.toml", "image = \"image\"\ntag = \"one\"\n");
    app.ok(&["jail", "build", "one"]);
    // A recipe that makes no sense, an image that is none.
    app.write("jails/mixed.toml", "image = \"image\"\nbinaries = [\"sh\"]\n");
    assert!(app.run(&["jail", "build", "mixed"]).err.contains("whole root"));
    app.write("jails/none.toml", "image = \"pysecure.toml\"\n");
    assert!(app.run(&["jail", "build", "none"]).err.contains("tar file"));
    app.write("jails/nowhere.toml", "image = \"nowhere\"\n");
    assert!(
        app.run(&["jail", "build", "nowhere"])
            .err
            .contains("put an OCI layout there")
    );
}

fn trees(app: &App) -> Vec<PathBuf> {
    let found = std::fs::read_dir(app.state().join("jails/trees")).into_iter().flatten();
    found.map(|e| e.unwrap().path()).collect()
}

#[test]
fn an_image_that_is_made_to_do_harm_is_refused() {
    for mode in BOTH {
        let outside = harness::folder_of_the_host();
        let outside = outside.path();
        std::fs::write(outside.join("theirs"), "theirs").unwrap();
        let app = App::new(mode, &manifest("imageharm"));
        app.write("good.toml", "");
        layout(&app, "good", &image(), &image());
        app.write("jails/good.toml", "image = \"good\"\n");
        app.ok(&["jail", "build", "good"]);
        let refused = |name: &str, layers: &[Vec<u8>], packed: &[Vec<u8>], wanted: &str| {
            let _ = std::fs::remove_dir_all(app.folder.join("image"));
            layout(&app, "image", layers, packed);
            let ended = app.run(&["jail", "build", "oci"]);
            assert_eq!(ended.code, 2, "{name}: {}{}", ended.out, ended.err);
            assert!(ended.err.contains(wanted), "{name}: {}", ended.err);
            assert!(!app.state().join("jails/tmp").exists(), "{name}");
            assert_eq!(trees(&app).len(), 1, "{name}");
        };
        for (name, entries, wanted) in [
            (
                "dots",
                vec![Entry::File("../../opt/x", b"x", 0o644)],
                "leads out of the root",
            ),
            (
                "dots below",
                vec![Entry::File("a/../../../opt/x", b"x", 0o644)],
                "leads out of the root",
            ),
            (
                "absolute",
                vec![Entry::File("/opt/x", b"x", 0o644)],
                "leads out of the root",
            ),
            (
                "hard link out",
                vec![Entry::Hard("x", "../../etc/shadow")],
                "leads out of the root",
            ),
            (
                "absolute hard link",
                vec![Entry::Hard("x", "/etc/shadow")],
                "leads out of the root",
            ),
            (
                "hard link to nothing",
                vec![Entry::Hard("x", "etc/shadow")],
                "no file of the image",
            ),
            (
                "whiteout of the root",
                vec![Entry::File(".wh.", b"", 0o644)],
                "takes the root away",
            ),
            (
                "whiteout of dot",
                vec![Entry::File(".wh..", b"", 0o644)],
                "takes the root away",
            ),
            (
                "whiteout of dots",
                vec![Entry::File("a/.wh...", b"", 0o644)],
                "takes the root away",
            ),
            (
                "opaque root",
                vec![Entry::File(".wh..wh..opq", b"", 0o644)],
                "takes the root away",
            ),
            ("device", vec![Entry::Node("etc/null")], "is a device"),
            (
                "link loop",
                vec![
                    Entry::Link("a", "b"),
                    Entry::Link("b", "a"),
                    Entry::File("a/x", b"x", 0o644),
                ],
                "lead in a circle",
            ),
            (
                "in a file",
                vec![Entry::File("a", b"x", 0o644), Entry::File("a/x", b"x", 0o644)],
                "lies in a file",
            ),
        ] {
            let one = vec![layer(&entries)];
            refused(name, &one, &one, wanted);
        }
        // Sizes that headers claim: ten gigabytes, as a sparse file and as zeros that pack well.
        let sparse = |kind: EntryType, size: u64| {
            let mut head = Header::new_gnu();
            head.set_path("big").unwrap();
            head.set_entry_type(kind);
            head.set_size(size);
            head.set_mode(0o644);
            head.set_cksum();
            let mut all = head.as_bytes().to_vec();
            all.extend([0; 4096]);
            vec![all]
        };
        let one = sparse(EntryType::GNUSparse, 512);
        refused("sparse", &one, &one, "sparse file");
        let one = sparse(EntryType::Regular, 10 << 30);
        refused("huge", &one, &one, "more than");
        let one = sparse(EntryType::GNULongName, 1 << 30);
        refused("long name", &one, &one, "a header of");
        let zeros = vec![0u8; 80 << 20];
        let bomb = vec![layer(&[Entry::File("bomb", &zeros, 0o644)])];
        let packed = gzip(&bomb[0]);
        refused("bomb", &bomb, &[packed], "as a bomb does");
        // Content that is not what it is said to be.
        let one = vec![layer(&[Entry::File("said", b"x", 0o644)])];
        let other = vec![layer(&[Entry::File("is", b"x", 0o644)])];
        refused("other content", &one, &other, "not what the configuration says");
        let cut = image()[0][..100_000].to_vec();
        refused(
            "cut off",
            std::slice::from_ref(&cut),
            std::slice::from_ref(&cut),
            "layer 0",
        );
        // Written through links that lead out: within the root all the same.
        let _ = std::fs::remove_dir_all(app.folder.join("image"));
        let through = vec![layer(&[
            Entry::Link("out", outside.to_str().unwrap()),
            Entry::Link("up", &format!("../../../..{}", outside.display())),
            Entry::File("out/theirs", b"ours", 0o644),
            Entry::File("up/other", b"ours", 0o644),
            Entry::File("up/.wh.theirs", b"", 0o644),
        ])];
        layout(&app, "image", &through, &through);
        app.ok(&["jail", "build", "oci"]);
        assert_eq!(std::fs::read_to_string(outside.join("theirs")).unwrap(), "theirs");
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
        let shown = app.ok(&["jail", "show", "oci"]).out;
        assert!(shown.contains(&format!("{}/theirs  4 B", outside.display())), "{shown}");
    }
}

/// `pysecure ARGS` with no more memory than a few of the images below would take, were there no bounds.
fn with_little_memory(app: &App, args: &[&str]) -> harness::Ended {
    let program = harness::binary().to_str().unwrap();
    let all = [&["--as=400000000", program], args].concat();
    harness::Ended::from(app.shell_free("prlimit", &all).output().expect("install util-linux"))
}

#[test]
fn an_image_costs_no_more_than_its_size() {
    let app = App::new(Mode::Root, &manifest("imagecost"));
    let refused = |name: &str, wanted: &str| {
        let begun = std::time::Instant::now();
        let ended = with_little_memory(&app, &["jail", "build", "oci"]);
        println!("{name}: {:?}", begun.elapsed());
        assert_eq!(ended.code, 2, "{name}: {}{}", ended.out, ended.err);
        assert!(ended.err.contains(wanted), "{name}: {}", ended.err);
        assert!(ended.err.len() < 3000, "{name}: {} bytes of error", ended.err.len());
    };
    let of_layers = |name: &str, layers: &[Vec<u8>], packed: &[Vec<u8>], wanted: &str| {
        let _ = std::fs::remove_dir_all(app.folder.join("image"));
        layout(&app, "image", layers, packed);
        refused(name, wanted);
    };
    let of_layer = |name: &str, entries: Vec<u8>, wanted: &str| {
        let one = [entries];
        of_layers(name, &one, &one, wanted);
    };
    // What a name of directories brings along, and what it takes to look each of them up.
    let deep: Vec<u8> = (0..300)
        .flat_map(|n| long(&format!("{n}/{}x", "a/".repeat(2_035)), None))
        .collect();
    of_layer("deep", deep, "in more than 128 directories");
    let wide: Vec<u8> = (0..700)
        .flat_map(|n| long(&format!("{n:04}{}x", format!("{}/", "w".repeat(31)).repeat(127)), None))
        .collect();
    of_layer("wide", wide, "come to more than 128 MiB");
    of_layer(
        "target",
        long("link", Some(&"a/".repeat(2_000))),
        "leads through more than 128 directories",
    );
    let half = "a/".repeat(100);
    let mut onward = long(&format!("{half}on"), Some(&half));
    onward.extend(long(&format!("{half}on/x"), None));
    of_layer("a link that leads on", onward, "in more than 128 directories");
    let folder = format!("{}/", "w".repeat(60)).repeat(62);
    let mut round: Vec<u8> = (0..39)
        .flat_map(|n| long(&format!("{folder}{n}"), Some(&format!("/{folder}{}", n + 1))))
        .collect();
    for n in 0..2_000 {
        round.extend(long(&format!("{folder}0/{n}"), None));
    }
    of_layer(
        "links looked up",
        round,
        "lead through more directories than any image's",
    );
    // Names and records.
    let mut path = records(&[("path", &"p".repeat(100_000))]);
    path.extend(raw("x", EntryType::Regular, 0, b""));
    of_layer("a record's name", path, "a name of 100000 bytes");
    let mut target = records(&[("linkpath", &"p".repeat(100_000))]);
    target.extend(raw("x", EntryType::Symlink, 0, b""));
    of_layer("a record's target", target, "a name of 100000 bytes");
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongLink] {
        of_layer(
            "a header",
            raw("x", kind, 2 << 30, &[0; 4096]),
            "a header of 2147483648 bytes",
        );
    }
    let mut twice = records(&[("size", "3")]);
    twice.extend(raw("x", EntryType::Regular, 0, b"abc"));
    of_layer("two sizes", twice, "a file has two sizes");
    // Each layer alone would pass.
    let zeros = vec![0u8; 40 << 20];
    let bombs = [1, 2].map(|n| layer(&[Entry::File(&format!("bomb{n}"), &zeros, 0o644)]));
    let packed = bombs.clone().map(|b| {
        let mut out = GzEncoder::new(Vec::new(), Compression::best());
        out.write_all(&b).unwrap();
        out.finish().unwrap()
    });
    of_layers("several bombs", &bombs, &packed, "as a bomb does");
    // Documents.
    let empty = vec![Vec::new(); 600];
    of_layers("many layers", &empty, &empty, "more than 512; squash it");

    let _ = std::fs::remove_dir_all(app.folder.join("image"));
    let of_archive = |name: &str, content: &[u8], length: u64, wanted: &str| {
        let file = app.write("image.tar", content);
        // What follows is a hole, which costs its maker nothing.
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.set_len(length.max(content.len() as u64)).unwrap();
        refused(name, wanted);
    };
    for kind in [
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let claims = raw("x", kind, 2 << 30, b"");
        of_archive("an archive's header", &claims, 3 << 30, "a header of 2147483648 bytes");
    }
    let claims = raw("layer.tar", EntryType::Regular, 1 << 40, b"");
    of_archive("an archive's size", &claims, 0, "longer than the file");
    let document = |name: &str, text: &str| {
        let mut out = tar::Builder::new(Vec::new());
        let mut head = Header::new_gnu();
        head.set_size(text.len() as u64);
        out.append_data(&mut head, name, text.as_bytes()).unwrap();
        out.into_inner().unwrap()
    };
    let many = format!(
        "[{{\"Config\": \"config.json\", \"Layers\": [{}\"\"]}}]",
        "\"\",".repeat(1_300_000)
    );
    of_archive(
        "many names of layers",
        &document("manifest.json", &many),
        0,
        "it lacks config.json",
    );
    let odd = format!("[{{\"Config\": \"{}\", \"Layers\": []}}]", "c".repeat(4_000_000));
    of_archive("a long name", &document("manifest.json", &odd), 0, "it lacks ccc");
    let nested = "[".repeat(4_000_000);
    of_archive("nesting", &document("manifest.json", &nested), 0, "cannot be read");
    let variables: Vec<String> = (0..5_000).map(|n| format!("V{n}=x")).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": variables },
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    let mut two = document("config.json", &config.to_string());
    two.truncate(two.len() - 1024);
    two.extend(document(
        "manifest.json",
        r#"[{"Config": "config.json", "Layers": []}]"#,
    ));
    of_archive("many variables", &two, 0, "5000 variables, more than");
}

#[test]
fn an_archive_whose_names_and_sizes_stand_in_records_is_read() {
    let app = App::new(Mode::Root, &manifest("imagerecords"));
    let inner = layer(&[Entry::File("etc/x", b"x", 0o644)]);
    // As for a layer of more than 8 GiB: the header holds no size, and only the record tells where the next entry is.
    let mut out = records(&[("path", "0/layer.tar"), ("size", &inner.len().to_string())]);
    out.extend(raw("short", EntryType::Regular, 0, b""));
    out.extend_from_slice(&inner);
    let mut rest = tar::Builder::new(Vec::new());
    let documents = [
        ("config.json", config(std::slice::from_ref(&inner))),
        (
            "manifest.json",
            br#"[{"Config": "config.json", "Layers": ["a/linked.tar"]}]"#.to_vec(),
        ),
    ];
    for (name, text) in &documents {
        let mut head = Header::new_gnu();
        head.set_size(text.len() as u64);
        rest.append_data(&mut head, name, text.as_slice()).unwrap();
    }
    out.extend(long("a/linked.tar", Some("../0/layer.tar")));
    out.extend(rest.into_inner().unwrap());
    app.write("image.tar", out);
    assert!(app.ok(&["jail", "show", "oci"]).out.contains("/etc/x  1 B"));
}

#[test]
fn what_a_pattern_leaves_out_goes_with_all_that_is_below() {
    let app = App::new(Mode::Root, &manifest("imageexclude"));
    let layers = [layer(&[
        Entry::File("a/b/c/d", b"", 0o644),
        Entry::File("a/b.x", b"", 0o644),
        Entry::File("a/bc/d", b"", 0o644),
        Entry::Link("z", "a"),
    ])];
    layout(&app, "image", &layers, &layers);
    for (pattern, left) in [
        ("/a/b", "a a/b.x a/bc a/bc/d z"),
        ("/a/b*", "a z"),
        ("*/d", "a a/b a/b.x a/b/c a/bc z"),
        ("/*", ""),
        ("/", ""),
    ] {
        app.write(
            "jails/oci.toml",
            format!("image = \"image\"\nexclude = [\"{pattern}\"]\n"),
        );
        let shown = app.ok(&["jail", "show", "oci"]).out;
        let names: Vec<&str> = shown
            .lines()
            .filter_map(|l| l.strip_prefix('/')?.split([' ']).next())
            .map(|n| n.trim_end_matches('/'))
            .collect();
        let mut wanted: Vec<&str> = left.split_whitespace().collect();
        wanted.sort();
        let mut names = names;
        names.sort();
        assert_eq!(names, wanted, "{pattern}: {shown}");
    }
}

/// An entry of a few names, so that they come across each other.
fn any_entry() -> impl Strategy<Value = (u8, String, String)> {
    let part = || proptest::sample::select(vec!["a", "b", "c", "..", ".", ".wh.a", ".wh..wh..opq"]);
    let path = move || proptest::collection::vec(part(), 1..5).prop_map(|parts| parts.join("/"));
    let target = (any::<bool>(), path()).prop_map(|(top, p)| if top { format!("/{p}") } else { p });
    (0u8..5, path(), target)
}

fn of_entries(entries: &[(u8, String, String)]) -> Vec<u8> {
    let entry = |(kind, name, target): &'_ (u8, String, String)| -> Entry<'static> {
        // Tests end.
        let (name, target): (&str, &str) = (name.clone().leak(), target.clone().leak());
        match kind {
            0 => Entry::Dir(name),
            1 | 2 => Entry::File(name, target.as_bytes(), 0o755),
            3 => Entry::Link(name, target),
            _ => Entry::Hard(name, target),
        }
    };
    layer(&entries.iter().map(entry).collect::<Vec<_>>())
}

/// A listing is a tree, the same each time, or there is an error. Nothing else is asked of rubbish.
fn listed(path: &Path, open: impl Fn(&Path) -> Result<Image, JailError>) -> Option<Listing> {
    let once = |image: Image| listing(&Arc::new(image), &[]);
    let first = open(path).and_then(once);
    let second = open(path).and_then(once);
    assert_eq!(first, second);
    let found = first.ok()?;
    found.check().unwrap_or_else(|e| panic!("{e}: {found:#?}"));
    Some(found)
}

#[test]
fn whatever_the_layers_say_is_a_tree_or_an_error() {
    let folder = harness::fresh_folder();
    let path = folder.join("image.tar");
    let trees = std::cell::Cell::new(0);
    let layers = proptest::collection::vec(proptest::collection::vec(any_entry(), 0..8), 1..4);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 2_000,
        ..ProptestConfig::default()
    });
    let ran = runner.run(&layers, |layers| {
        let layers: Vec<_> = layers.iter().map(|l| of_entries(l)).collect();
        std::fs::write(&path, saved(&layers)).unwrap();
        if listed(&path, |p| Image::open(p, None)).is_some_and(|l| !l.items.is_empty()) {
            trees.set(trees.get() + 1);
        }
        Ok(())
    });
    ran.unwrap();
    // About 115 do: half of that is far out of what chance does.
    assert!(trees.get() > 55, "of 2,000 only {} came to something", trees.get());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn whatever_the_bytes_are_the_readers_end_with_a_tree_or_an_error() {
    let folder = harness::fresh_folder();
    let path = folder.join("image.tar");
    let mut seed = of_entries(&[(0, "a".into(), "".into()), (1, "a/b".into(), "text".into())]);
    seed.splice(0..0, long("a/long", Some("b")));
    seed.splice(0..0, records(&[("path", "c/d"), ("size", "4"), ("mtime", "1.5")]));
    let whole = saved(std::slice::from_ref(&seed));
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6);
    let cut = proptest::option::of(any::<proptest::sample::Index>());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 2_000,
        ..ProptestConfig::default()
    });
    let ran = runner.run(
        &(any::<bool>(), any::<bool>(), changes, cut),
        |(outer, mend, changes, cut)| {
            let mut bytes = if outer { whole.clone() } else { seed.clone() };
            for (at, byte) in changes {
                let length = bytes.len();
                bytes[at.index(length)] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if mend {
                // A reader that sees a wrong checksum sees nothing else.
                for block in bytes.chunks_exact_mut(512) {
                    let mut head = Header::from_byte_slice(block).clone();
                    if head.entry_size().is_ok() && block[257..262] == *b"ustar" {
                        head.set_cksum();
                        block.copy_from_slice(head.as_bytes());
                    }
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            if outer {
                listed(&path, |p| Image::open(p, None));
            } else {
                listed(&path, Image::of_tar);
            }
            Ok(())
        },
    );
    ran.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

/// All that could be seen of a change below a folder: names, kinds, modes, owners, times, contents.
fn state(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let mut out = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let m = path.symlink_metadata().unwrap();
        let content = std::fs::read(&path).ok();
        out.push(format!(
            "{} {:o} {}:{} {}.{} {content:?}",
            path.display(),
            m.mode(),
            m.uid(),
            m.gid(),
            m.ctime(),
            m.ctime_nsec()
        ));
        if m.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    out.sort();
    out
}

/// A folder of the host's with a directory for each of these names, which everybody may change.
fn canary(names: &[&str]) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = harness::folder_of_the_host();
    for name in names {
        let place = folder.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("theirs"), "theirs").unwrap();
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
    }
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    folder
}

/// Directories in which something is made for a service, be it generated or a place for a mount…
const MADE_IN: [&str; 6] = ["etc", "var", "opt", "srv", "opt/deep", "srv/code"];
/// …what stands in their place never gets into a jail…
const LEFT_OUT: [&str; 5] = ["run", "tmp", "dev", "proc", "sys"];
/// …and what may be a link, for nothing is made in it.
const FREE: [&str; 4] = ["usr", "bin", "home", "root"];

fn linked(name: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
code = {{ "/srv/code" = "./app" }}
[resources]
data = {{ path = "/opt/deep/data", owner = "rw" }}
file = {{ path = "/srv/file", kind = "file", owner = "rw" }}
[services.main]
command = ["/app/busybox", "echo", "it runs"]
owner_resources = ["data", "file"]
jail = "oci"
"#
    )
}

/// What can stand where a directory should be. `away`: the host's folder that a link is to lead to.
fn obstacles<'a>(top: &'a str, away: &'a str, dots: &'a str, missing: &'a str) -> [(&'static str, Vec<Entry<'a>>); 5] {
    [
        ("absolute", vec![Entry::Link(top, away)]),
        ("relative", vec![Entry::Link(top, dots)]),
        ("dangling", vec![Entry::Link(top, missing)]),
        (
            "chain",
            vec![Entry::Link(top, "/app/hop"), Entry::Link("app/hop", away)],
        ),
        ("file", vec![Entry::File(top, b"x", 0o777)]),
    ]
}

#[test]
fn links_of_an_image_lead_nowhere_on_the_host() {
    let busybox = std::fs::read("/bin/busybox").expect("install busybox-static");
    let all: Vec<&str> = [&MADE_IN[..], &LEFT_OUT, &FREE].concat();
    // The attack is one: by path, what an image calls /opt/deep is the host's folder.
    let victim = canary(&["opt/deep"]);
    let naive = harness::fresh_folder();
    std::fs::create_dir(naive.join("opt")).unwrap();
    std::os::unix::fs::symlink(victim.path().join("opt/deep"), naive.join("opt/deep")).unwrap();
    let before = state(victim.path());
    std::fs::create_dir_all(naive.join("opt/deep/data")).unwrap();
    assert_ne!(state(victim.path()), before);
    std::fs::remove_dir_all(naive).unwrap();

    for mode in BOTH {
        let victim = canary(&all);
        let before = state(victim.path());
        let app = App::new(mode, &linked("imagelinks"));
        app.write("app/x", "x");
        for top in &all {
            let away = victim.path().join(top).display().to_string();
            let dots = format!("../../../../../../../../../..{away}");
            let missing = format!("{away}/missing");
            // Of links in which nothing is made, one is like the other.
            let kinds = match (MADE_IN.contains(top), mode) {
                (true, Mode::Root) => 5,
                (true, _) => 2,
                _ => 1,
            };
            for (kind, entries) in obstacles(top, &away, &dots, &missing).into_iter().take(kinds) {
                let name = format!("{mode:?} {top} {kind}");
                let _ = std::fs::remove_dir_all(app.folder.join("image"));
                let mut whole = vec![Entry::File("app/busybox", &busybox, 0o755)];
                whole.extend(entries);
                let layers = [layer(&whole)];
                layout(&app, "image", &layers, &layers);
                app.ok(&["jail", "build", "oci"]);
                assert_eq!(state(victim.path()), before, "{name}: jail build");
                let bundle = app.folder.join("bundle").display().to_string();
                let file = app.write("file", "x").display().to_string();
                let mut commands = vec![vec!["spec", "-o", &bundle], vec!["run", "main"]];
                if kind == "absolute" {
                    commands.push(vec!["cp", &file, "main:/tmp/file"]);
                    commands.push(vec!["up", "-d"]);
                    commands.push(vec!["down"]);
                    commands.push(vec!["check"]);
                }
                for args in commands {
                    let ended = app.run(&args);
                    assert_eq!(state(victim.path()), before, "{name}: {args:?}: {}", ended.err);
                    if args[0] == "down" {
                        continue;
                    }
                    if MADE_IN.contains(top) {
                        assert_eq!(ended.code, 2, "{name}: {args:?}: {}{}", ended.out, ended.err);
                        let wanted = format!("exclude = [\"/{top}\"]");
                        // What the manifest names, and not PySecure, has words of its own.
                        let said = ended.err.contains(&wanted) || ended.err.contains("its path");
                        assert!(said, "{name}: {args:?}: {}", ended.err);
                    } else {
                        assert_eq!(ended.code, 0, "{name}: {args:?}: {}{}", ended.out, ended.err);
                        assert!(args[0] != "run" || ended.out == "it runs\n", "{name}: {}", ended.out);
                    }
                }
                let _ = std::fs::remove_dir_all(&bundle);
            }
        }
        // What the error says helps.
        let away = victim.path().join("etc").display().to_string();
        let layers = [layer(&[
            Entry::File("app/busybox", &busybox, 0o755),
            Entry::Link("etc", &away),
        ])];
        let _ = std::fs::remove_dir_all(app.folder.join("image"));
        layout(&app, "image", &layers, &layers);
        app.write("jails/oci.toml", "image = \"image\"\nexclude = [\"/etc\"]\n");
        assert_eq!(app.ok(&["run", "main"]).out, "it runs\n");
        assert_eq!(state(victim.path()), before);
    }
}

#[test]
fn what_lies_below_a_link_of_a_jail_is_made_in_the_jail_or_not_at_all() {
    for mode in BOTH {
        let victim = canary(&["opt", "dir", "mode"]);
        let away = |name: &str| victim.path().join(name).display().to_string();
        let (opt, mode_dir) = (away("opt"), away("mode"));
        let before = state(victim.path());
        let app = App::new(mode, &manifest("imagebelow"));
        // A layer puts a file into a directory of the layer below, and then a link in that directory's place.
        let layers = [
            layer(&[Entry::Dir("srv"), Entry::File("srv/old", b"old", 0o644)]),
            layer(&[
                Entry::File("srv/made", b"made", 0o644),
                Entry::Dir("srv/deep"),
                Entry::Link("srv", &opt),
                // And through it, which is a place in the image.
                Entry::File("srv/through", b"through", 0o644),
            ]),
        ];
        layout(&app, "image", &layers, &layers);
        app.ok(&["jail", "build", "oci"]);
        let shown = app.ok(&["jail", "show", "oci"]).out;
        assert!(shown.contains(&format!("/srv -> {opt}\n")), "{shown}");
        assert!(shown.contains(&format!("{opt}/through")), "{shown}");
        assert!(!shown.contains("/srv/made") && !shown.contains("/srv/old"), "{shown}");
        // A recipe's own directories and links, below a link.
        let layers = [layer(&[Entry::Link("srv", &mode_dir), Entry::File("a", b"a", 0o644)])];
        layout(&app, "linked", &layers, &layers);
        for (name, recipe, wanted) in [
            (
                "directories",
                "image = \"linked\"\ndirectories = [\"/srv\", \"/srv/made/deep\"]\n".to_owned(),
                "",
            ),
            (
                "infile",
                "image = \"linked\"\ndirectories = [\"/a/b\"]\n".to_owned(),
                "no directory in the jail",
            ),
            (
                "links",
                format!("[links]\n\"/srv/a\" = \"{mode_dir}\"\n\"/srv/a/made\" = \"x\"\n"),
                "no directory in the jail",
            ),
            (
                "both",
                format!("directories = [\"/srv/a/made\"]\n[links]\n\"/srv/a\" = \"{mode_dir}\"\n"),
                "no directory in the jail",
            ),
        ] {
            app.write(&format!("jails/{name}.toml"), recipe);
            let ended = app.run(&["jail", "build", name]);
            match wanted {
                "" => drop(ended.ok()),
                _ => assert!(ended.code == 2 && ended.err.contains(wanted), "{name}: {}", ended.err),
            }
            assert_eq!(state(victim.path()), before, "{mode:?} {name}");
        }
        let shown = app.ok(&["jail", "show", "directories"]).out;
        assert!(shown.contains(&format!("{mode_dir}/made/deep/\n")), "{shown}");
        // A bundle's own folder, swapped for a link, and with links in it.
        let bundles = app.folder.join("bundles");
        std::fs::create_dir(&bundles).unwrap();
        let of = |path: &Path| std::os::unix::fs::symlink(victim.path().join("dir"), path).unwrap();
        app.write("jails/oci.toml", "image = \"runs\"\n");
        let busybox = std::fs::read("/bin/busybox").expect("install busybox-static");
        let layers = [layer(&[Entry::File("app/run", &busybox, 0o755)])];
        layout(&app, "runs", &layers, &layers);
        of(&bundles.join("main"));
        app.write("bundles/x", "");
        let compile = || app.run(&["spec", "-o", bundles.to_str().unwrap()]);
        assert_ne!(compile().code, 0);
        assert_eq!(state(victim.path()), before, "{mode:?}");
        std::fs::remove_file(bundles.join("main")).unwrap();
        compile().ok();
        std::fs::remove_dir_all(bundles.join("main/rootfs")).unwrap();
        std::fs::remove_file(bundles.join("main/config.json")).unwrap();
        of(&bundles.join("main/rootfs"));
        of(&bundles.join("main/layers"));
        of(&bundles.join("main/config.json"));
        compile().ok();
        assert_eq!(state(victim.path()), before, "{mode:?}");
        assert!(bundles.join("main/rootfs/etc").is_dir());
    }
}
