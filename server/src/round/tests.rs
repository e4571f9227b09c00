use super::*;
use gossamer_protocol::manifest::Buffered;
use gossamer_protocol::problem::ProblemType;
use proptest::prelude::*;

mod lacks;

const DEADLINE: Timestamp = Timestamp(60_000);
const NOW: Timestamp = Timestamp(0);

fn client(b: u8) -> ClientId {
    ClientId([b; 16])
}

fn update(b: u8) -> Digest {
    Digest([b; 32])
}

fn fleet(n: u8) -> Vec<ClientId> {
    (0..n).map(client).collect()
}

fn rules(goal: u32, ask: u32, min: u32, selection: Selection) -> Cohort {
    Cohort {
        goal,
        ask,
        min,
        enrolled_min: 0,
        deadline_s: 60,
        selection,
        retry_s: 1.0,
        buffered: None,
        participation: None,
    }
}

fn tick<'a>(fleet: &'a [ClientId]) -> Event<'a> {
    Event::Tick { fleet, may_open: true }
}

fn submit(attempt: u32, b: u8, bytes: u8) -> Event<'static> {
    let (round, attempt) = (RoundId(0), Attempt(attempt));
    Event::Submit { round, attempt, client: client(b), update: update(bytes) }
}

/// An open first-come round with clients 0 and 1 asked.
fn open(goal: u32, ask: u32, min: u32) -> Round {
    let mut round = Round::new(rules(goal, ask, min, Selection::FirstCome), 1, RoundId(0));
    round.step(&tick(&fleet(5)), NOW).expect("opens");
    for b in [0, 1] {
        round.step(&Event::CheckIn(client(b)), NOW).expect("asked");
    }
    round
}

#[test]
fn opens_when_enough_are_enrolled_and_it_may() {
    let mut rules = rules(2, 3, 2, Selection::FirstCome);
    rules.enrolled_min = 4;
    let mut round = Round::new(rules, 1, RoundId(0));
    assert_eq!(round.step(&tick(&fleet(3)), NOW), Ok(vec![]));
    let paused = Event::Tick { fleet: &fleet(4), may_open: false };
    assert_eq!(round.step(&paused, NOW), Ok(vec![]));
    assert_eq!(
        round.step(&Event::CheckIn(client(0)), NOW),
        Ok(vec![Effect::Wait(Idle::Fleet)]),
        "nobody is asked before"
    );
    let opened = Effect::Open { attempt: Attempt(0), deadline: DEADLINE, asked: vec![] };
    assert_eq!(round.step(&tick(&fleet(4)), NOW), Ok(vec![opened]));
    assert_eq!(round.step(&tick(&fleet(4)), NOW), Ok(vec![]), "once");
}

#[test]
fn asks_no_more_than_it_should_and_the_same_again() {
    let mut round = open(1, 2, 1);
    let first = Effect::Assign { client: client(0), new: false };
    assert_eq!(round.step(&Event::CheckIn(client(0)), NOW), Ok(vec![first]));
    let full = Effect::Wait(Idle::NotAsked);
    assert_eq!(round.step(&Event::CheckIn(client(2)), NOW), Ok(vec![full]));
}

#[test]
fn the_goal_closes_and_nothing_more_is_taken() {
    let mut round = open(2, 3, 1);
    round.step(&Event::CheckIn(client(2)), NOW).expect("asked");
    let accept = |b| Effect::Accept { client: client(b), update: update(b) };
    assert_eq!(round.step(&submit(0, 0, 0), NOW), Ok(vec![accept(0)]));
    assert_eq!(
        round.step(&submit(0, 1, 1), NOW),
        Ok(vec![accept(1), Effect::Freeze, Effect::Close])
    );
    let stale = RoundError::Stale { got: RoundId(0), attempt: Attempt(0) };
    assert_eq!(round.step(&submit(0, 2, 2), NOW), Err(stale));
    assert_eq!(round.step(&submit(0, 1, 1), NOW), Ok(vec![Effect::Repeat(client(1))]));
    let closing = Effect::Wait(Idle::Closing);
    assert_eq!(round.step(&Event::CheckIn(client(2)), NOW), Ok(vec![closing]));
    assert_eq!(round.step(&tick(&fleet(5)), NOW), Ok(vec![Effect::Close]), "until it is done");
    let round = round.next();
    assert_eq!((round.id(), round.phase()), (RoundId(1), Phase::Idle));
    assert!(round.accepted().is_empty());
}

#[test]
fn refuses_by_name_and_changes_nothing() {
    let mut round = open(2, 3, 1);
    round.step(&submit(0, 0, 0), NOW).expect("accepted");
    let before = round.clone();
    let to = |round, attempt, b, bytes| Event::Submit {
        round: RoundId(round),
        attempt: Attempt(attempt),
        client: client(b),
        update: update(bytes),
    };
    let cases = [
        (to(0, 0, 0, 9), NOW, ProblemType::Conflict),
        (to(0, 0, 4, 4), NOW, ProblemType::NotInCohort),
        (to(1, 0, 1, 1), NOW, ProblemType::UnknownRound),
        (to(0, 1, 1, 1), NOW, ProblemType::UnknownRound),
        (to(0, 0, 1, 1), DEADLINE, ProblemType::StaleRound),
    ];
    for (event, now, problem) in cases {
        let refused = round.step(&event, now).expect_err("refused");
        assert_eq!(refused.problem(), problem, "{event:?}");
        assert_eq!(round, before, "{event:?}");
    }
}

#[test]
fn the_deadline_closes_with_the_minimum_and_retries_below() {
    let mut enough = open(2, 3, 1);
    enough.step(&submit(0, 0, 0), NOW).expect("accepted");
    assert_eq!(enough.step(&tick(&fleet(5)), Timestamp(59_999)), Ok(vec![]));
    assert_eq!(enough.step(&tick(&fleet(5)), DEADLINE), Ok(vec![Effect::Freeze, Effect::Close]));

    let mut few = open(3, 3, 2);
    few.step(&submit(0, 0, 0), NOW).expect("accepted");
    let again = few.step(&tick(&fleet(5)), DEADLINE).expect("tries again");
    let deadline = Timestamp(120_000);
    let opened = Effect::Open { attempt: Attempt(1), deadline, asked: vec![] };
    assert_eq!(again, [Effect::Abandon(Attempt(0)), opened]);
    let stale = RoundError::Stale { got: RoundId(0), attempt: Attempt(0) };
    assert_eq!(few.step(&submit(0, 1, 1), DEADLINE), Err(stale), "the attempt is over");
    // What was accepted before counts, and needs no second assignment.
    let done = Effect::Wait(Idle::Done);
    assert_eq!(few.step(&Event::CheckIn(client(0)), DEADLINE), Ok(vec![done]));
    assert_eq!(few.step(&submit(0, 0, 0), DEADLINE), Ok(vec![Effect::Repeat(client(0))]));
    for b in [1, 2] {
        let asked = few.step(&Event::CheckIn(client(b)), DEADLINE).expect("asked");
        assert_eq!(asked, [Effect::Assign { client: client(b), new: true }]);
    }
    let full = Effect::Wait(Idle::NotAsked);
    assert_eq!(few.step(&Event::CheckIn(client(3)), DEADLINE), Ok(vec![full]), "3 - 1 seats");
    few.step(&submit(1, 1, 1), DEADLINE).expect("accepted");
    let last = few.step(&submit(1, 2, 2), DEADLINE).expect("accepted");
    assert!(last.contains(&Effect::Close));
    assert_eq!(few.accepted().len(), 3);
}

#[test]
fn a_round_that_reached_its_goal_takes_no_more_after_a_restart() {
    let mut round = open(1, 2, 1);
    round.step(&submit(0, 0, 0), NOW).expect("accepted");
    let accepted = [(client(0), update(0), Task::default())];
    let asked = round.asked().clone();
    let mut again = Round::new(rules(1, 2, 1, Selection::FirstCome), 1, RoundId(0));
    let place = Place { attempt: Attempt(0), deadline: Some(DEADLINE), frozen: true };
    again.follow(place, asked.clone(), accepted);
    assert_eq!(again, round);
    let stale = RoundError::Stale { got: RoundId(0), attempt: Attempt(0) };
    assert_eq!(again.step(&submit(0, 1, 1), NOW), Err(stale));
    assert_eq!(again.step(&tick(&fleet(5)), NOW), Ok(vec![Effect::Close]));
    // Where the store did not say so yet, the next tick does.
    let mut again = Round::new(rules(1, 2, 1, Selection::FirstCome), 1, RoundId(0));
    again.follow(Place { frozen: false, ..place }, asked, accepted);
    assert_eq!(again.step(&tick(&fleet(5)), NOW), Ok(vec![Effect::Freeze, Effect::Close]));
}

#[test]
fn a_seeded_round_closes_when_everybody_asked_has_sent() {
    let mut round = Round::new(rules(5, 5, 1, Selection::Seeded), 1, RoundId(0));
    round.step(&tick(&fleet(2)), NOW).expect("opens");
    assert_eq!(round.asked().len(), 2);
    assert_eq!(round.step(&submit(0, 0, 0), NOW).expect("accepted").len(), 1);
    let last = round.step(&submit(0, 1, 1), NOW).expect("accepted");
    assert!(last.contains(&Effect::Close), "nobody is left who could send");
}

#[derive(Clone, Debug)]
enum Move {
    Tick(bool),
    CheckIn(u8),
    Submit { round: u64, attempt: u32, client: u8, bytes: u8 },
    Wait(u64),
    Publish,
    Restart,
    Look,
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => any::<bool>().prop_map(Move::Tick),
        4 => (0_u8..8).prop_map(Move::CheckIn),
        8 => (0_u64..4, 0_u32..4, 0_u8..8, 0_u8..2)
            .prop_map(|(round, attempt, client, bytes)| Move::Submit { round, attempt, client, bytes }),
        2 => (1_u64..40_000).prop_map(Move::Wait),
        1 => Just(Move::Publish),
        1 => Just(Move::Restart),
        2 => Just(Move::Look),
    ]
}

/// What a store that carries out every effect would hold.
#[derive(Default)]
struct Stored {
    attempt: Attempt,
    deadline: Option<Timestamp>,
    round: RoundId,
    asked: BTreeMap<ClientId, Task>,
    accepted: BTreeMap<ClientId, (Digest, Task)>,
    frozen: bool,
}

impl Stored {
    fn carry_out(&mut self, effect: &Effect) {
        match effect {
            Effect::Open { attempt, deadline, asked } => {
                self.attempt = *attempt;
                self.deadline = Some(*deadline);
                let task = self.task();
                self.asked.extend(asked.iter().map(|&client| (client, task)));
            }
            Effect::Abandon(attempt) => {
                self.attempt = Attempt(attempt.0 + 1);
                self.deadline = None;
                self.asked.clear();
            }
            Effect::Assign { client, new: true } => {
                assert_eq!(self.asked.insert(*client, self.task()), None);
            }
            Effect::Accept { client, update } => {
                let twice = self.accepted.insert(*client, (*update, self.asked[client]));
                assert_eq!(twice, None, "accepted twice");
            }
            Effect::Deadline(deadline) => self.deadline = Some(*deadline),
            Effect::Freeze => self.frozen = true,
            _ => assert!(!effect.is_durable(), "{effect:?}"),
        }
    }

    fn task(&self) -> Task {
        Task { round: self.round, attempt: self.attempt }
    }

    /// As the transaction that publishes leaves it.
    fn publish(&mut self, oldest: RoundId) {
        let round = self.round.next();
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain(|client, task| task.round >= oldest && !self.accepted.contains_key(client));
        *self = Self { round, asked, ..Self::default() };
    }

    fn place(&self) -> Place {
        Place { attempt: self.attempt, deadline: self.deadline, frozen: self.frozen }
    }

    fn accepted(&self) -> impl Iterator<Item = (ClientId, Digest, Task)> {
        self.accepted.iter().map(|(&client, &(update, task))| (client, update, task))
    }
}

proptest! {
    /// Whatever happens, restarts and other processes included: an accepted update is in every later accepted set of its
    /// round, once; nothing is taken from whom nobody asked, late, or after the close; a round closes
    /// just by its goal, by its deadline with the minimum, or when nobody is left. Buffered, nothing is taken
    /// that is later than it may be, or made from a snapshot that the client was not asked to train.
    #[test]
    fn accepted_is_accepted(
        (goal, spare, min) in (1_u32..5).prop_flat_map(|goal| (Just(goal), 0_u32..3, 1..=goal)),
        seeded in any::<bool>(),
        late in prop::option::of(0_u32..3),
        moves in prop::collection::vec(any_move(), 0..120),
    ) {
        let seeded = seeded && late.is_none();
        let selection = if seeded { Selection::Seeded } else { Selection::FirstCome };
        let mut rules = rules(goal, goal + spare, min, selection);
        rules.buffered = late.map(|staleness_max| Buffered { staleness_max });
        let fleet = fleet(6);
        let mut round = Round::new(rules.clone(), 1, RoundId(0));
        // What a process has that looks now and then.
        let mut other = round.clone();
        let (mut now, mut stored, mut frozen) = (NOW, Stored::default(), false);
        for step in moves {
            let event = match step {
                Move::Wait(ms) => { now = Timestamp(now.0 + ms); continue }
                Move::Publish if !frozen => continue,
                Move::Publish => {
                    round = round.next();
                    stored.publish(round.oldest());
                    frozen = false;
                    other = round.clone();
                    continue
                }
                Move::Restart => {
                    round = Round::new(rules.clone(), 1, round.id());
                    round.follow(stored.place(), stored.asked.clone(), stored.accepted());
                    continue
                }
                Move::Look => {
                    other.follow(stored.place(), stored.asked.clone(), stored.accepted());
                    prop_assert_eq!(&other, &round);
                    continue
                }
                Move::Tick(may_open) => Event::Tick { fleet: &fleet, may_open },
                Move::CheckIn(b) => Event::CheckIn(client(b)),
                Move::Submit { round, attempt, client: b, bytes } => Event::Submit {
                    round: RoundId(round), attempt: Attempt(attempt), client: client(b),
                    update: update(bytes),
                },
            };
            let before = round.clone();
            let Ok(effects) = round.step(&event, now) else {
                prop_assert_eq!(&round, &before, "a refusal changes nothing");
                continue
            };
            for effect in &effects {
                if let Effect::Accept { client, .. } = effect {
                    prop_assert!(before.asked().contains_key(client));
                    prop_assert!(!frozen, "accepted after the close");
                    let open = |phase| matches!(phase, Phase::Open { deadline } if now < deadline);
                    prop_assert!(late.is_some() || open(before.phase()), "accepted while not open");
                    if let Event::Submit { round, attempt, .. } = event {
                        let told = before.asked()[client];
                        prop_assert_eq!(told, Task { round, attempt });
                        let most = u64::from(late.unwrap_or(0));
                        prop_assert!(before.id().0 - round.0 <= most, "{round}");
                    }
                }
                stored.carry_out(effect);
                if *effect == Effect::Close {
                    frozen = true;
                    let sent = round.accepted().len();
                    let late = stored.deadline.is_some_and(|deadline| now >= deadline);
                    let left = stored.asked.keys().any(|c| !stored.accepted.contains_key(c));
                    prop_assert!(sent >= min as usize);
                    prop_assert!(sent >= goal as usize || late || (seeded && !left));
                }
            }
            let known: BTreeMap<ClientId, Digest> =
                stored.accepted.iter().map(|(&c, &(d, _))| (c, d)).collect();
            prop_assert_eq!(round.accepted(), &known);
            prop_assert_eq!(round.asked(), &stored.asked);
            prop_assert!(round.accepted().len() <= (goal + spare) as usize);
            let working = round.asked().keys().filter(|c| !round.accepted().contains_key(c)).count();
            prop_assert!(working <= (goal + spare) as usize, "{working} at work");
        }
    }
}

/// Three at work at a time, two updates a round, one round late at most.
fn buffered() -> Round {
    let mut rules = rules(2, 3, 1, Selection::FirstCome);
    rules.buffered = Some(Buffered { staleness_max: 1 });
    let mut round = Round::new(rules, 1, RoundId(0));
    round.step(&tick(&fleet(6)), NOW).expect("opens");
    for b in 0..3 {
        round.step(&Event::CheckIn(client(b)), NOW).expect("asked");
    }
    round
}

fn made(round: u64, b: u8) -> Event<'static> {
    let (round, attempt) = (RoundId(round), Attempt(0));
    Event::Submit { round, attempt, client: client(b), update: update(b) }
}

#[test]
fn a_late_update_counts_in_the_round_that_is_on() {
    let mut round = buffered();
    let full = Effect::Wait(Idle::NotAsked);
    assert_eq!(round.step(&Event::CheckIn(client(3)), NOW), Ok(vec![full]), "three are at work");
    round.step(&made(0, 0), NOW).expect("taken");
    // Its place is free for another, not for itself: it counts in this round already.
    assert_eq!(round.step(&Event::CheckIn(client(0)), NOW), Ok(vec![Effect::Wait(Idle::Done)]));
    let new = Effect::Assign { client: client(3), new: true };
    assert_eq!(round.step(&Event::CheckIn(client(3)), NOW), Ok(vec![new]));
    let last = round.step(&made(0, 1), NOW).expect("taken");
    assert_eq!(last[1..], [Effect::Freeze, Effect::Close]);
    // Not lost, as it would be to a round that is over: it comes again.
    let later = round.step(&made(0, 2), NOW).expect_err("between two rounds");
    assert_eq!((later, later.problem()), (RoundError::Closing, ProblemType::Busy));

    let mut round = round.next();
    assert_eq!(round.asked().keys().copied().collect::<Vec<_>>(), [client(2), client(3)]);
    round.step(&tick(&fleet(6)), NOW).expect("opens");
    // Asked again, it has the same task.
    let same = Effect::Assign { client: client(2), new: false };
    assert_eq!(round.step(&Event::CheckIn(client(2)), NOW), Ok(vec![same]));
    assert_eq!(round.asked_for(client(2)), Task { round: RoundId(0), attempt: Attempt(0) });
    round.step(&Event::CheckIn(client(0)), NOW).expect("asked");
    let not_its_own = round.step(&made(0, 0), NOW).expect_err("of the round before");
    assert_eq!(not_its_own, RoundError::Stale { got: RoundId(0), attempt: Attempt(0) });
    round.step(&made(1, 0), NOW).expect("taken");
    assert_eq!(round.step(&made(0, 2), NOW).expect("taken").len(), 3, "the goal");
    assert_eq!(round.step(&made(0, 2), NOW), Ok(vec![Effect::Repeat(client(2))]));
    assert_eq!(round.staleness(), [0, 1], "in client order");

    // Client 3 was asked two rounds ago by now.
    let mut round = round.next();
    assert!(round.asked().is_empty());
    round.step(&tick(&fleet(6)), NOW).expect("opens");
    let late = round.step(&made(0, 3), NOW).expect_err("too late");
    assert_eq!(late.problem(), ProblemType::StaleRound);
    let new = Effect::Assign { client: client(3), new: true };
    assert_eq!(round.step(&Event::CheckIn(client(3)), NOW), Ok(vec![new]));
    assert_eq!(round.asked_for(client(3)).round, RoundId(2));
}

/// Between two attempts an update is carried into the next, in whichever process it is seen.
#[test]
fn what_comes_before_an_attempt_opens_is_carried_into_it() {
    let mut round = buffered();
    round.step(&made(0, 0), NOW).expect("taken");
    round.step(&made(0, 1), NOW).expect("the goal");
    let mut round = round.next();
    let mut other = round.clone();
    let taken = round.step(&made(0, 2), NOW).expect("taken before the round opens");
    assert_eq!(taken.len(), 1, "{taken:?}");
    let task = Task { round: RoundId(0), attempt: Attempt(0) };
    let place = Place { attempt: Attempt(0), deadline: None, frozen: false };
    let accepted = round.accepted()[&client(2)];
    other.follow(place, [(client(2), task)], [(client(2), accepted, task)]);
    assert_eq!(other, round);
}

#[test]
fn whoever_never_comes_back_holds_no_place_for_ever() {
    let mut round = buffered();
    let again = round.step(&tick(&fleet(6)), DEADLINE).expect("tries again");
    assert_eq!(again[0], Effect::Abandon(Attempt(0)));
    assert!(round.asked().is_empty());
    let gone = round.step(&made(0, 1), DEADLINE).expect_err("its attempt is over");
    assert_eq!(gone.problem(), ProblemType::StaleRound);
}

#[test]
fn a_gap_is_given_back_and_never_more_than_an_attempt() {
    let mut rules = rules(2, 3, 1, Selection::FirstCome);
    rules.deadline_s = 1_000;
    let at = |s: u64| Timestamp(s * 1_000);
    let taken_over = |away, now| {
        let mut round = Round::new(rules.clone(), 1, RoundId(0));
        round.step(&tick(&fleet(3)), NOW).expect("opens");
        let away = Duration::from_secs(away);
        let effects = round.step(&Event::TakenOver { away }, at(now)).expect("nothing to refuse");
        match (round.phase(), effects.as_slice()) {
            (Phase::Open { deadline }, []) => (deadline, false),
            (Phase::Open { deadline }, [Effect::Deadline(told)]) => {
                assert_eq!(deadline, *told);
                (deadline, true)
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(taken_over(0, 100), (at(1_000), false), "nobody was missed");
    assert_eq!(taken_over(400, 500), (at(1_400), true), "so much later");
    assert_eq!(taken_over(5_000, 5_900), (at(6_000), true), "past in the gap");
    assert_eq!(taken_over(1, 999), (at(999 + 60), true), "clients pause between tries");
    assert_eq!(taken_over(9_000, 500), (at(1_500), true), "an attempt's length at most");
    let idle = Round::new(rules.clone(), 1, RoundId(0));
    let mut round = idle.clone();
    assert_eq!(round.step(&Event::TakenOver { away: GRACE }, NOW), Ok(vec![]));
    assert_eq!(round, idle);
}

#[test]
fn a_clock_that_goes_back_makes_no_round_longer() {
    let mut round = Round::new(rules(2, 3, 1, Selection::FirstCome), 1, RoundId(0));
    let day = Timestamp(86_400_000);
    round.step(&tick(&fleet(3)), day).expect("opens");
    let sooner = Effect::Deadline(Timestamp(1_000 + 60_000));
    assert_eq!(round.step(&tick(&fleet(3)), Timestamp(1_000)), Ok(vec![sooner]));
    assert_eq!(round.step(&tick(&fleet(3)), Timestamp(2_000)), Ok(vec![]));
}
