//! The pictures of README.md and docs: each is drawn from a text beside it, which another test makes anew and compares.
//! `PYSECURE_BLESS=1` draws them again.

use std::fmt::Write;
use std::path::{Path, PathBuf};

const WIDTH: usize = 830;
const ROW: usize = 24;
const TOP: usize = 74;
/// Where the columns begin.
const COLUMNS: [usize; 3] = [24, 430, 630];

/// In colours that are read on a light page and on a dark one.
const STYLE: &str = "<style>
text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328; }
.head { font-weight: bold; }
.page { fill: #ffffff; stroke: #d0d7de; }
.TAKEN { fill: #b3261e; font-weight: bold; }
.held { fill: #1a7f37; font-weight: bold; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .page { fill: #0d1117; stroke: #3d444d; }
  .TAKEN { fill: #ff7b72; }
  .held { fill: #56d364; }
}
</style>
";

fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pictures")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// A table as a picture: the first line is its title, the second has the names of its columns, and `|` parts columns.
fn table(text: &str) -> String {
    let mut lines = text.lines();
    let title = lines.next().unwrap();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split('|').map(str::trim).collect()).collect();
    let height = TOP + ROW * rows.len() - ROW / 2;
    let mut out = String::new();
    let said = format!(
        "{title}. {}",
        rows.iter().map(|row| row.join(", ")).collect::<Vec<_>>().join("; ")
    );
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{}\">",
        escaped(&said)
    )
    .unwrap();
    out += STYLE;
    writeln!(
        out,
        "<rect class=\"page\" x=\"1\" y=\"1\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
        WIDTH - 2,
        height - 2
    )
    .unwrap();
    let put = |out: &mut String, class: &str, x: usize, y: usize, text: &str| {
        writeln!(
            out,
            "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>",
            escaped(text)
        )
        .unwrap();
    };
    put(&mut out, "head", COLUMNS[0], 32, title);
    for (number, row) in rows.iter().enumerate() {
        assert_eq!(row.len(), COLUMNS.len(), "{row:?}");
        for (cell, x) in row.iter().zip(COLUMNS) {
            let class = match (number, *cell) {
                (0, _) => "head",
                (_, "TAKEN" | "held") => cell,
                _ => "",
            };
            put(&mut out, class, x, TOP + ROW * number - ROW / 2, cell);
        }
    }
    out + "</svg>\n"
}

#[test]
fn each_is_drawn_from_its_text() {
    let mut drawn = Vec::new();
    for entry in std::fs::read_dir(pictures()).unwrap() {
        let text = entry.unwrap().path();
        if text.extension().is_some_and(|e| e == "txt") {
            let picture = text.with_extension("svg");
            let current = table(&std::fs::read_to_string(&text).unwrap());
            if std::env::var_os("PYSECURE_BLESS").is_some_and(|bless| bless == "1") {
                std::fs::write(&picture, &current).unwrap();
            }
            assert!(
                std::fs::read_to_string(&picture).unwrap_or_default() == current,
                "{} is not what {} says: run this test with PYSECURE_BLESS=1",
                picture.display(),
                text.display()
            );
            drawn.push(picture);
        }
    }
    assert!(!drawn.is_empty());
    // And there is no other, which nothing would keep true.
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if ["svg", "png", "gif", "jpg"].contains(&kind.as_str()) {
                assert!(drawn.contains(&path), "{} is drawn from no text", path.display());
            }
        }
    }
}
