//! `top`: one page on the terminal of how the services are, what they use, and what the selected one prints.
//!
//! Draws what the supervisor says once a second and after each key; decides nothing. What services print is shown
//! without its control characters.

use super::args::Cli;
use super::load;
use super::stats::{Row, Sampler, bytes};
use super::{Done, Failure, ps};
use crate::host::Dirs;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::console::{self, shown};
use crate::supervise::history::History;
use crate::supervise::protocol::{AppStatus, Request};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Table, TableState};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);
const KEYS: [(&str, &str); 6] = [
    ("↑↓", "select"),
    ("s", "start"),
    ("t", "stop"),
    ("r", "restart"),
    ("R", "reload"),
    ("q", "leave"),
];

struct Page {
    dirs: Dirs,
    client: Client,
    sampler: Sampler,
    status: AppStatus,
    rows: Vec<Row>,
    selected: TableState,
    /// What came of the last key.
    said: String,
}

pub(super) fn run(cli: &Cli) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    if !std::io::stdout().is_terminal() {
        return Err(Failure::new(
            2,
            "`top` draws on a terminal; elsewhere `pysecure ps` and `pysecure stats` say the same",
        ));
    }
    let mut client = Client::connect(&dirs, &loaded.model.app)?;
    let mut page = Page {
        sampler: Sampler::new(client.stats()?),
        status: client.status()?,
        rows: Vec::new(),
        selected: TableState::default().with_selected(Some(0)),
        said: String::new(),
        dirs,
        client,
    };
    let mut terminal = ratatui::try_init()?;
    let ended = page.show(&mut terminal);
    ratatui::restore();
    match ended? {
        // Its services went while they were looked at.
        Shown::Down => outln!("`{}` is down", loaded.model.app),
        Shown::Left => {}
    }
    Ok(0)
}

enum Shown {
    Left,
    Down,
}

impl Page {
    fn show(&mut self, terminal: &mut ratatui::DefaultTerminal) -> Result<Shown, Failure> {
        let mut next = Instant::now() + PAUSE / 4;
        loop {
            terminal.draw(|frame| self.draw(frame))?;
            let key = event::poll(next.saturating_duration_since(Instant::now()))?;
            if key
                && let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let interrupts = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                if interrupts || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(Shown::Left);
                }
                match self.pressed(key.code) {
                    Err(ClientError::NotUp { .. }) => return Ok(Shown::Down),
                    Err(e) => self.said = shown(e.to_string().as_bytes()),
                    Ok(()) => {}
                }
            }
            if Instant::now() >= next {
                next = Instant::now() + PAUSE;
                match self.look() {
                    Err(ClientError::NotUp { .. }) => return Ok(Shown::Down),
                    other => other?,
                }
            }
        }
    }

    fn look(&mut self) -> Result<(), ClientError> {
        self.rows = self.sampler.next(self.client.stats()?);
        self.status = self.client.status()?;
        let last = self.status.services.len().saturating_sub(1);
        self.selected
            .select(Some(self.selected.selected().unwrap_or(0).min(last)));
        Ok(())
    }

    fn pressed(&mut self, key: KeyCode) -> Result<(), ClientError> {
        let service = || self.name().map(str::to_owned).into_iter().collect::<Vec<String>>();
        let last = self.status.services.len().saturating_sub(1);
        let at = self.selected.selected().unwrap_or(0);
        let request = match key {
            KeyCode::Up | KeyCode::Char('k') => {
                self.selected.select(Some(at.saturating_sub(1)));
                return Ok(());
            }
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected.select(Some((at + 1).min(last)));
                return Ok(());
            }
            KeyCode::Char('s') => Request::Start { services: service() },
            KeyCode::Char('t') => Request::Stop {
                services: service(),
                timeout_ms: None,
            },
            KeyCode::Char('r') => Request::Restart {
                services: service(),
                timeout_ms: None,
            },
            KeyCode::Char('R') => Request::Reload { services: service() },
            _ => return Ok(()),
        };
        // How it goes is seen in the table; nothing is waited for here. On a connection of its own, whose answer
        // nobody reads.
        Client::connect(&self.dirs, &self.status.app)?.send(&request, &[])?;
        self.said = match key {
            KeyCode::Char('s') => "starting",
            KeyCode::Char('t') => "stopping",
            KeyCode::Char('r') => "restarting",
            _ => "reloading",
        }
        .to_owned()
            + " "
            + self.name().unwrap_or_default();
        self.look()
    }

    fn name(&self) -> Option<&str> {
        let at = self.selected.selected()?;
        self.status.services.get(at).map(|s| s.service.as_str())
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let table_height = (self.status.services.len() as u16 + 3)
            .min(frame.area().height * 3 / 5)
            .max(5);
        let [head, table, logs, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(table_height),
            Constraint::Min(3),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_table(frame, table);
        self.draw_logs(frame, logs);
        self.draw_keys(frame, keys);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let of = |state: &str| self.status.services.iter().filter(|s| s.state == state).count();
        let (running, all) = (of("running"), self.status.services.len());
        let cpu: f64 = self.rows.iter().map(|r| r.cpu_percent).sum();
        let memory: u64 = self.rows.iter().map(|r| r.usage.memory_bytes).sum();
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let rest = format!(
            "  {running} of {all} services run  cpu {cpu:.1}%  memory {}  supervisor {}",
            bytes(memory),
            self.status.supervisor_pid
        );
        frame.render_widget(
            Line::from(vec![Span::styled(self.status.app.clone(), bold), rest.into()]),
            area,
        );
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.status.services.iter().map(|service| {
            let row = self.rows.iter().find(|r| r.usage.service == service.service);
            let colour = match service.state.as_str() {
                "running" | "listening" if service.health.as_deref() != Some("unhealthy") => Color::Green,
                "starting" | "waiting" | "stopping" | "restarting" => Color::Yellow,
                "failed" | "running" => Color::Red,
                "exited" if service.exit_code != Some(0) => Color::Red,
                _ => Color::DarkGray,
            };
            let cells = [
                Cell::from(service.service.clone()),
                Cell::from(shown(ps::state(service).as_bytes())).style(Style::new().fg(colour)),
                Cell::from(service.health.clone().unwrap_or_else(|| "-".into())),
                Cell::from(service.restarts.to_string()),
                Cell::from(row.map_or_else(String::new, |r| format!("{:.1}%", r.cpu_percent))),
                Cell::from(row.map_or_else(String::new, |r| bytes(r.usage.memory_bytes))),
                Cell::from(row.map_or_else(String::new, |r| r.usage.pids.to_string())),
                Cell::from(service.uid.to_string()),
                Cell::from(ps::duration(service.seconds)),
            ];
            ratatui::widgets::Row::new(cells)
        });
        let longest = self.status.services.iter().map(|s| s.service.len()).max().unwrap_or(0);
        let widths = [
            Constraint::Length(longest.clamp(7, 24) as u16),
            Constraint::Min(12),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(9),
            Constraint::Length(5),
            Constraint::Length(6),
            Constraint::Length(9),
        ];
        let head = [
            "SERVICE", "STATE", "HEALTH", "RESTARTS", "CPU", "MEMORY", "PIDS", "UID", "UPTIME",
        ];
        let table = Table::new(rows, widths)
            .header(ratatui::widgets::Row::new(head).style(Style::new().add_modifier(Modifier::BOLD)))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
            .block(Block::new().borders(Borders::TOP));
        frame.render_stateful_widget(table, area, &mut self.selected);
    }

    fn draw_logs(&self, frame: &mut Frame<'_>, area: Rect) {
        let name = self.name().unwrap_or_default();
        let block = Block::new().borders(Borders::TOP).title(format!(" {name} prints "));
        let lines = self.log_end(name, usize::from(area.height.saturating_sub(1)));
        let lines: Vec<Line<'_>> = lines
            .into_iter()
            .map(|(stream, text)| match stream {
                "stderr" => Line::styled(text, Style::new().fg(Color::Red)),
                _ => Line::raw(text),
            })
            .collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_keys(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut spans = Vec::new();
        for (key, what) in KEYS {
            spans.push(Span::styled(
                format!(" {key} "),
                Style::new().add_modifier(Modifier::REVERSED),
            ));
            spans.push(Span::raw(format!(" {what}  ")));
        }
        spans.push(Span::styled(self.said.clone(), Style::new().fg(Color::Yellow)));
        frame.render_widget(Line::from(spans), area);
    }

    /// The last lines of a service: stream and text.
    fn log_end(&self, name: &str, count: usize) -> Vec<(&'static str, String)> {
        let read = || -> std::io::Result<Vec<(&'static str, String)>> {
            let mut history = History::open(self.dirs.log(name), false)?;
            history.skip_to_last(count)?;
            let mut lines = Vec::new();
            while let Some(line) = history.next_line()? {
                lines.push((line.stream, console::line(&line.text)));
            }
            Ok(lines)
        };
        // A log that cannot be read is shown as one without lines; `logs` says why.
        read().unwrap_or_default()
    }
}
