//! Who is asked: a uniform sample without replacement that anyone can draw again.

use gossamer_protocol::ids::{Attempt, ClientId, RoundId};
use gossamer_protocol::rng::Stream;

/// Draws `seats` of `fleet` for an attempt; those who `sent` already are passed over.
///
/// `fleet` is in rising order, so equal fleets give equal cohorts. Fisher-Yates over as many places
/// as are drawn: O(fleet) to copy, O(seats) to draw. Fewer come back where there are fewer.
#[must_use]
pub fn draw(
    seed: u64,
    round: RoundId,
    attempt: Attempt,
    fleet: &[ClientId],
    seats: usize,
    sent: impl Fn(&ClientId) -> bool,
) -> Vec<ClientId> {
    let parts: [&[u8]; 2] = [&round.0.to_le_bytes(), &attempt.0.to_le_bytes()];
    let mut rng = Stream::new(seed, "cohort", &parts);
    let mut pool: Vec<ClientId> = fleet.iter().copied().filter(|client| !sent(client)).collect();
    let drawn = seats.min(pool.len());
    for place in 0..drawn {
        let from = place + rng.below((pool.len() - place) as u64) as usize;
        pool.swap(place, from);
    }
    pool.truncate(drawn);
    pool.sort_unstable();
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(n: u8) -> Vec<ClientId> {
        (0..n).map(|b| ClientId([b; 16])).collect()
    }

    fn of(seed: u64, round: u64, attempt: u32, seats: usize) -> Vec<ClientId> {
        draw(seed, RoundId(round), Attempt(attempt), &fleet(20), seats, |_| false)
    }

    #[test]
    fn the_same_name_draws_the_same_and_another_another() {
        assert_eq!(of(1, 0, 0, 5), of(1, 0, 0, 5));
        assert_ne!(of(1, 0, 0, 5), of(2, 0, 0, 5));
        assert_ne!(of(1, 0, 0, 5), of(1, 1, 0, 5));
        assert_ne!(of(1, 0, 0, 5), of(1, 0, 1, 5));
    }

    #[test]
    fn nobody_twice_and_nobody_who_sent() {
        let gone = ClientId([3; 16]);
        let drawn = draw(1, RoundId(0), Attempt(0), &fleet(20), 30, |c| *c == gone);
        let all: Vec<ClientId> = fleet(20).into_iter().filter(|c| *c != gone).collect();
        assert_eq!(drawn, all);
    }

    #[test]
    fn every_client_has_the_same_chance() {
        let mut seen = [0_u32; 20];
        for round in 0..2_000 {
            for client in of(9, round, 0, 5) {
                seen[usize::from(client.0[0])] += 1;
            }
        }
        // Hypergeometric over rounds: mean 500, sd sqrt(2000 * 0.25 * 0.75) = 19.4.
        assert!(seen.iter().all(|&c| c.abs_diff(500) < 97), "{seen:?}");
    }
}
