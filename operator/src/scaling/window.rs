//! Window: how many pods would have held, look by look, so that there are fewer only when fewer would have held all the time.

use std::collections::VecDeque;

use super::signals::Seconds;

/// Looks of one window.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    looks: VecDeque<(Seconds, u32)>,
}

impl Window {
    /// Takes down how many pods would hold now.
    pub(super) fn push(&mut self, length: Seconds, at: Seconds, pods: u32) {
        self.looks.push_back((at, pods));
        // The one before the window begins shows that the window is covered.
        while self.looks.get(1).is_some_and(|(second, _)| at - second >= length) {
            self.looks.pop_front();
        }
    }

    /// The fewest pods that would have held for a whole window, `now` included; everything, while less is known.
    #[must_use]
    pub(super) fn held(&self, length: Seconds, at: Seconds, now: u32) -> u32 {
        match self.looks.front() {
            Some((first, _)) if at - first >= length => {
                self.looks.iter().map(|(_, pods)| *pods).fold(now, u32::max)
            }
            _ => u32::MAX,
        }
    }

    /// Begins anew: what was not seen is not known.
    pub(super) fn clear(&mut self) {
        self.looks.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_what_its_highest_look_needed_and_nothing_before_it_is_covered() {
        let mut window = Window::default();
        for (at, pods) in [(0.0, 5), (10.0, 2), (20.0, 3), (30.0, 2), (40.0, 2)] {
            window.push(30.0, at, pods);
        }
        assert_eq!(window.held(30.0, 40.0, 1), 3, "5 are of before");
        assert_eq!(window.held(100.0, 40.0, 1), u32::MAX);
        window.clear();
        assert_eq!(window.held(30.0, 40.0, 1), u32::MAX);
    }
}
