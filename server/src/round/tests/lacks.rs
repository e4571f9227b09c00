//! Who is lacking for a round to begin.

use super::*;

/// Where too few may take part, no attempt is begun in vain.
#[test]
fn a_round_waits_for_clients_that_have_not_had_their_turn() {
    for selection in [Selection::FirstCome, Selection::Seeded] {
        let resting = [client(0), client(1)].into();
        let mut round = Round::new(rules(3, 3, 2, selection), 1, RoundId(4)).resting(resting);
        assert_eq!(round.step(&tick(&fleet(1)), NOW), Ok(vec![]));
        assert_eq!(round.lacks(&fleet(1)), Some(Lacks::Clients));
        // Three are enrolled, and one may take part.
        assert_eq!(round.step(&tick(&fleet(3)), NOW), Ok(vec![]));
        assert_eq!(round.lacks(&fleet(3)), Some(Lacks::Participation));
        let told = |b| vec![Effect::Wait(b)];
        assert_eq!(round.step(&Event::CheckIn(client(0)), NOW), Ok(told(Idle::Resting)));
        assert_eq!(round.step(&Event::CheckIn(client(2)), NOW), Ok(told(Idle::Few)));
        assert_eq!(round.step(&tick(&fleet(4)), NOW).expect("opens").len(), 1);
        assert_eq!(round.lacks(&fleet(4)), None);
        // One update of two in time: it stays, and the next attempt needs one more, of whom there is one.
        if selection == Selection::FirstCome {
            round.step(&Event::CheckIn(client(2)), NOW).expect("asked");
            let sent = Event::Submit {
                round: RoundId(4),
                attempt: Attempt(0),
                client: client(2),
                update: update(2),
            };
            round.step(&sent, NOW).expect("taken");
            let again = round.step(&tick(&fleet(4)), DEADLINE).expect("tries again");
            assert_eq!(again.len(), 2, "{again:?}");
            let end = Timestamp(DEADLINE.0 * 3);
            let again = round.step(&tick(&fleet(3)), end).expect("no more");
            assert_eq!(again, [Effect::Abandon(Attempt(1))], "client 3 is not there any more");
        }
    }
}
