//! A process that takes orders: `yard generate …`, started in the network of a place by `yard shell`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, bail};

use super::Yard;
use crate::gauge::{Charges, Roll};
use crate::load::{Measured, Order, Reply};

/// An agent; it ends with this.
pub(crate) struct Agent {
    place: String,
    child: Child,
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    /// What it says when it cannot go on.
    errors: File,
}

// === impl Agent ===

impl Agent {
    /// Starts one, and waits until it is there.
    pub(crate) fn start(yard: &Yard, place: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program")?;
        let program = program.to_str().context("this program's path is no text")?;
        let mut command = yard.command(&[&["shell", place, "--", program, "generate"], arguments].concat());
        let errors = tempfile::tempfile_in(yard.home()).context("make a file for an agent's errors")?;
        // Whoever interrupts at a terminal means the experiment, and not each agent: their orders end when it does.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.try_clone()?);
        let mut child = command.spawn().context("start yard shell")?;
        let orders = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().context("the agent's output")?);
        let mut agent = Self { place: place.to_owned(), child, orders, replies, errors };
        match agent.reply()? {
            Reply::Ready => Ok(agent),
            other => bail!("the agent in {place} begins with {other:?}"),
        }
    }

    /// Gives an order and waits for what comes of it.
    pub(crate) fn ask(&mut self, order: &Order) -> anyhow::Result<Reply> {
        let line = serde_json::to_string(order)? + "\n";
        let orders = self.orders.as_mut().context("the agent has been ended")?;
        orders.write_all(line.as_bytes()).with_context(|| format!("the agent in {} has ended", self.place))?;
        self.reply()
    }

    /// One sample.
    pub(crate) fn measure(&mut self, order: &Order) -> anyhow::Result<Measured> {
        self.measure_with(order, &Roll::default()).map(|(measured, _)| measured)
    }

    /// One sample, and what processes were charged while it counted.
    pub(crate) fn measure_with(&mut self, order: &Order, roll: &Roll) -> anyhow::Result<(Measured, Charges)> {
        let mut reply = self.ask(order)?;
        let (mut before, mut after) = (None, None);
        loop {
            match reply {
                Reply::Begun => before = Some(roll.read()),
                Reply::Ended => after = Some(roll.read()),
                Reply::Measured(measured) => {
                    let charges = before.zip(after).map(|(before, after)| roll.between(&before, &after));
                    return Ok((*measured, charges.unwrap_or_default()));
                }
                other => bail!("a sample was asked for, not {other:?}"),
            }
            reply = self.reply()?;
        }
    }

    fn last_words(&mut self) -> String {
        let mut said = String::new();
        let read = self.errors.rewind().and_then(|()| self.errors.read_to_string(&mut said));
        let last = said.lines().last().filter(|_| read.is_ok());
        last.unwrap_or("it did not say why").trim_start_matches("yard: ").to_owned()
    }

    fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            let why = self.last_words();
            bail!("the agent in {} has ended: {why}", self.place);
        }
        match serde_json::from_str(&line).with_context(|| format!("the agent in {}", self.place))? {
            Reply::Failed(reason) => bail!("in {}: {reason}", self.place),
            reply => Ok(reply),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its orders end, so it does.
        self.orders = None;
        let _ = self.child.wait();
    }
}
