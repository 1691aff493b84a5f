//! Previews for people: one line for each change, in the signs of `terraform plan`. Pure.

use super::{Action, Preview};

/// The previews as text, each ended by how much it is.
#[must_use]
pub fn text(previews: &[Preview]) -> String {
    previews.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(preview: &Preview) -> String {
    let Preview { namespace, name, changes, waiting, problems } = preview;
    let changed = changes.iter().map(|change| {
        let sign = match change.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Delete => '-',
        };
        format!("  {sign} {}\n", change.description)
    });
    let waits = waiting.iter().map(|waits| format!("  ? {} waits: {}\n", waits.part, waits.message));
    let refused = problems.iter().map(|problem| format!("  ! {}: {}\n", problem.field, problem.message));
    let lines: String = changed.chain(waits).chain(refused).collect();
    format!("OrderPipeline {namespace}/{name}\n{lines}{}\n", summary(preview))
}

fn summary(Preview { changes, waiting, problems, .. }: &Preview) -> String {
    let counted = [
        count(changes.len(), "change", "changes"),
        count(waiting.len(), "part that waits", "parts that wait"),
        count(problems.len(), "problem", "problems"),
    ];
    let counted: Vec<_> = counted.into_iter().flatten().collect();
    if counted.is_empty() { "nothing to change".to_owned() } else { counted.join(", ") }
}

fn count(number: usize, one: &str, several: &str) -> Option<String> {
    match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        number => Some(format!("{number} {several}")),
    }
}
