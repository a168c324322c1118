import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import type { KnownEvent } from '../../../edge/cache/statement-events.ts'
import { openStatements, type Statements } from '../../../edge/cache/statements.ts'
import type { Digest } from '../../../shared/oci/digest.ts'
import type { EventFact, EventStream } from '../../../shared/replication/events.ts'
import { tempFolder } from '../../kit/temp.ts'

// A model: the log is a list of where two tags of two projects pointed. Whatever an edge hears in whatever way (events,
// snapshots, signed answers of any age, restarts), a tag never goes back, and ends where the log ends.

const digestOf = (seq: number) => `sha256:${seq.toString(16).padStart(64, '0')}` as Digest
const projects = [1, 2] as const
const tags = ['v1', 'v2'] as const
const repositoryOf = (project: number) => 10 + project
const nameOf = (project: number) => `p${project}/app`
const streamOf = (project: number): EventStream => `project:${project}`

interface Move {
  readonly project: number
  readonly tag: string
}

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('push' as const), move: moves() }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('number' as const) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('feed' as const), most: fc.nat(2) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('snapshot' as const),
      project: fc.constantFrom(...projects),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('settle' as const),
      project: fc.constantFrom(...projects),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('stated' as const),
      move: moves(),
      age: fc.constantFrom(0, 0, 1, 2, 4),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('restart' as const) }) },
)

function moves(): fc.Arbitrary<Move> {
  return fc.record({
    project: fc.constantFrom(...projects),
    tag: fc.constantFrom(...tags),
  })
}

/** How much was pushed, and how much of that was numbered, when somebody looked. */
interface Look {
  readonly pushed: number
  readonly numbered: number
}

/** The log: push n moves a tag to digest n, and is event n once it is numbered, with all that wait at that moment. */
function createLog() {
  const moved: Move[] = []
  const batches: number[] = []
  const looks: Look[] = [{ pushed: 0, numbered: 0 }]
  const look = (): Look => ({ pushed: moved.length, numbered: batches.at(-1) ?? 0 })
  /** The push that last moved a tag, as of one; 0: none had. */
  const at = ({ project, tag }: Move, pushed: number): number =>
    moved.findLastIndex(
      (move, index) => index < pushed && move.project === project && move.tag === tag,
    ) + 1
  return {
    batches,
    look,
    at,
    push(move: Move) {
      moved.push(move)
      looks.push(look())
    },
    number() {
      if (look().numbered === moved.length) return
      batches.push(moved.length)
      looks.push(look())
    },
    /** What a primary said of a tag, so many looks ago. */
    stated(move: Move, age: number) {
      const { pushed, numbered } = looks.at(-1 - age) ?? { pushed: 0, numbered: 0 }
      const number = at(move, pushed)
      const waiting = number > numbered && { waiting: { id: number, bodyHash: String(number) } }
      return { digest: digestOf(number), epoch: 1, seq: numbered, ...waiting }
    },
    event(seq: number): KnownEvent {
      const move = moved[seq - 1]
      assert.ok(move)
      const fact: EventFact = {
        type: 'tag',
        projectId: move.project,
        repositoryId: repositoryOf(move.project),
        tag: move.tag,
        digest: digestOf(seq),
      }
      return { seq, stream: streamOf(move.project), bodyHash: String(seq), at: seq, fact }
    },
  }
}

type Log = ReturnType<typeof createLog>

const headAt = (seq: number) => ({ epoch: 1, seq, hash: Buffer.alloc(32) })

interface ComingSnapshot {
  readonly queue: KnownEvent[]
  commit(): Promise<void>
}

/** A snapshot as it is now, which is on its way until it is committed. */
async function readSnapshot(
  statements: Statements,
  log: Log,
  project: number,
): Promise<ComingSnapshot> {
  const writer = statements.startSnapshot(streamOf(project))
  const repository = repositoryOf(project)
  await writer.take({ project: `p${project}`, public: true })
  await writer.take({ repository, name: nameOf(project) })
  const { pushed, numbered } = log.look()
  for (const tag of tags) {
    const number = log.at({ project, tag }, pushed)
    if (number > 0) await writer.take({ repository, tag, digest: digestOf(number) })
  }
  const ahead: string[] = []
  for (let next = numbered + 1; next <= pushed; next++)
    if (log.event(next).stream === streamOf(project)) ahead.push(String(next))
  const queue: KnownEvent[] = []
  const state = { stream: streamOf(project), epoch: 1, seq: numbered, ahead }
  return { queue, commit: () => writer.commit(state, { events: queue, revoked: new Map() }) }
}

const seqOf = (digest: Digest | undefined) =>
  digest === undefined ? 0 : parseInt(digest.slice('sha256:'.length), 16)

/** An edge that hears of the log, and what its clients saw. */
function createEdge(log: Log, path: string, first: Statements) {
  let statements = first
  const seen = new Map<string, number>()
  const coming = new Map<number, ComingSnapshot>()
  let fed = 0
  const shown = ({ project, tag }: Move): number => {
    const repositoryId = statements.repositoryId(project, nameOf(project))
    return repositoryId === undefined
      ? 0
      : seqOf(statements.tag(project, repositoryId, tag)?.digest)
  }
  const see = ({ project, tag }: Move, number: number): void => {
    const before = seen.get(`${project}:${tag}`) ?? 0
    assert.ok(number >= before, `${project}:${tag} went from ${before} to ${number}`)
    seen.set(`${project}:${tag}`, number)
  }
  return {
    shown,
    isKnown: (project: number) => statements.project(project) !== undefined,
    look(): void {
      for (const project of projects)
        if (statements.project(project) !== undefined)
          for (const tag of tags) see({ project, tag }, shown({ project, tag }))
    },
    /** As the feed does it: whole batches, and what is of a stream on its way waits with that. */
    async feed(batches: number): Promise<void> {
      for (const end of log.batches.filter((each) => each > fed).slice(0, batches)) {
        const known: KnownEvent[] = []
        for (let next = fed + 1; next <= end; next++) {
          const event = log.event(next)
          const project = projects.find((each) => streamOf(each) === event.stream)
          const wait = project === undefined ? undefined : coming.get(project)
          if (wait === undefined) known.push(event)
          else wait.queue.push(event)
        }
        await statements.apply(known, headAt(end))
        fed = end
      }
    },
    async snapshot(project: number): Promise<void> {
      if (coming.has(project)) return
      const read = await readSnapshot(statements, log, project)
      // Of a stream that is known it comes at once.
      if (statements.project(project) === undefined) coming.set(project, read)
      else await read.commit()
    },
    async settle(project: number): Promise<void> {
      const read = coming.get(project)
      coming.delete(project)
      await read?.commit()
    },
    async hear(move: Move, age: number): Promise<void> {
      const statement = log.stated(move, age)
      if (seqOf(statement.digest) === 0) return
      const { project: projectId, tag } = move
      const repository = nameOf(projectId)
      const place = { projectId, repositoryId: repositoryOf(projectId), repository, tag }
      await statements.putTag(place, statement)
      // A client was answered so; what is older was said to nobody since.
      if (age === 0) see(move, seqOf(statement.digest))
    },
    async restart(): Promise<void> {
      coming.clear()
      await statements.close()
      statements = await openStatements(path)
    },
    close: () => statements.close(),
  }
}

test('whatever is heard in whatever order, no tag goes back, and each ends where the log ends', async (t) => {
  const folder = await tempFolder(t)
  let run = 0
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 30, maxLength: 60 }), async (steps) => {
      const path = join(folder, String(run++))
      const log = createLog()
      const statements = await openStatements(path)
      // Of the second project the log tells only by and by.
      await (await readSnapshot(statements, log, 1)).commit()
      await statements.apply([], headAt(0))
      const edge = createEdge(log, path, statements)
      try {
        for (const each of steps) {
          if (each.kind === 'push') log.push(each.move)
          else if (each.kind === 'number') log.number()
          else if (each.kind === 'feed') await edge.feed(each.most)
          else if (each.kind === 'snapshot') await edge.snapshot(each.project)
          else if (each.kind === 'settle') await edge.settle(each.project)
          else if (each.kind === 'restart') await edge.restart()
          else await edge.hear(each.move, each.age)
          edge.look()
        }
        log.number()
        for (const project of projects) {
          await edge.settle(project)
          if (edge.isKnown(project)) continue
          await edge.snapshot(project)
          await edge.settle(project)
        }
        await edge.feed(Infinity)
        edge.look()
        for (const project of projects)
          for (const tag of tags)
            assert.equal(edge.shown({ project, tag }), log.at({ project, tag }, Infinity))
      } finally {
        await edge.close()
      }
    }),
    { numRuns: 60 },
  )
})

const repositoryId = repositoryOf(1)
const place = { projectId: 1, repositoryId, repository: nameOf(1), tag: 'v1' }

/** One event of the log. */
function eventOf(seq: number, fact: EventFact): KnownEvent {
  const isSystem = fact.type.startsWith('rule')
  return {
    seq,
    stream: isSystem ? 'system' : 'project:1',
    bodyHash: `body ${seq}`,
    at: seq,
    fact,
  }
}

const tagAt = (seq: number, digest: Digest) => eventOf(seq, { type: 'tag', ...place, digest })
const followed = (seq: number, upTo: number) => eventOf(seq, { type: 'rules-followed', seq: upTo })

async function takeEmpty(statements: Statements): Promise<void> {
  await statements.startSnapshot('system').commit({ stream: 'system', epoch: 1, seq: 0, ahead: [] })
  const writer = statements.startSnapshot('project:1')
  await writer.take({ project: 'p1', public: true })
  await writer.take({ repository: repositoryId, name: 'p1/app' })
  await writer.commit({ stream: 'project:1', epoch: 1, seq: 0, ahead: [] })
  await statements.apply([], headAt(0))
}

const wholeRule = {
  ruleId: 7,
  name: 'whole',
  enabled: true,
  selector: {},
  serve: 'complete',
  platforms: [],
} as const

test('an image that a rule lets go of before all of it is here does not stand for its successor', async (t) => {
  const isMine = { yes: true }
  const statements = await openStatements(await tempFolder(t), { wantsWhole: () => isMine.yes })
  const known = () => statements.tag(1, repositoryId, 'v1')
  const [one, two, three, four] = [digestOf(1), digestOf(2), digestOf(3), digestOf(4)]
  const chosen = (seq: number, type: 'selected' | 'unselected', digest: Digest) =>
    eventOf(seq, { type, ...place, ruleId: 7, digest })
  try {
    await takeEmpty(statements)
    const rule = eventOf(1, { type: 'rule', ...wholeRule })
    await statements.apply(
      [rule, tagAt(2, one), chosen(3, 'selected', one), followed(4, 2)],
      headAt(4),
    )
    await statements.markHeld({
      ruleId: 7,
      ...place,
      digest: one,
      seq: 3,
      isHeld: false,
      isDemoted: false,
    })
    // Two came while nothing could be fetched.
    await statements.apply(
      [
        tagAt(5, two),
        chosen(6, 'selected', two),
        chosen(7, 'unselected', one),
        followed(8, 5),
        tagAt(9, three),
        chosen(10, 'selected', three),
        chosen(11, 'unselected', two),
        followed(12, 9),
      ],
      headAt(12),
    )
    assert.deepEqual([known()?.digest, known()?.before], [three, one])
    await statements.putTag(place, { digest: four, epoch: 1, seq: 14 })
    assert.deepEqual([known()?.digest, known()?.before], [four, one])
    // Of rules for other edges it is not known what is here.
    isMine.yes = false
    await statements.apply([tagAt(15, two)], headAt(15))
    await statements.apply([chosen(16, 'selected', two), followed(17, 15)], headAt(17))
    await statements.apply([tagAt(18, three)], headAt(18))
    assert.deepEqual([known()?.digest, known()?.before], [three, two])
  } finally {
    await statements.close()
  }
})

test('of a tag is known up to where rules must have been followed, however it is heard of', async (t) => {
  const statements = await openStatements(await tempFolder(t))
  const known = () => statements.tag(1, repositoryId, 'v1')
  try {
    const system = statements.startSnapshot('system')
    await system.take({ rulesFollowed: 3 })
    await system.commit({ stream: 'system', epoch: 1, seq: 4, ahead: [] })
    const writer = statements.startSnapshot('project:1')
    await writer.take({ project: 'p1', public: true })
    await writer.take({ repository: repositoryId, name: 'p1/app' })
    // Its event waits for a number: nobody knows yet up to where.
    const [one, two, three] = [digestOf(1), digestOf(2), digestOf(3)]
    await writer.take({ repository: repositoryId, tag: 'v1', digest: one, unfollowed: 'next' })
    await writer.commit({ stream: 'project:1', epoch: 1, seq: 4, ahead: ['body 5'] })
    await statements.apply([], headAt(4))
    assert.ok((known()?.unfollowed ?? 0) > 1000)
    await statements.apply([tagAt(5, one)], headAt(5))
    assert.deepEqual([known()?.digest, known()?.unfollowed], [one, 5])
    assert.equal(statements.followedSeq, 3)

    // Of the first nothing was known when it moved on.
    await statements.apply([tagAt(6, two)], headAt(6))
    assert.equal(known()?.before, undefined)
    await statements.apply([followed(7, 6)], headAt(7))
    assert.equal(statements.followedSeq, 6)

    // Heard from the primary itself, before the log has told of it.
    await statements.putTag(place, { digest: three, epoch: 1, seq: 9 })
    assert.deepEqual([known()?.digest, known()?.before], [three, two])
    assert.ok((known()?.unfollowed ?? 0) > 1000)
    await statements.apply([tagAt(8, three)], headAt(8))
    assert.deepEqual([known()?.digest, known()?.seq, known()?.unfollowed], [three, 9, 8])
  } finally {
    await statements.close()
  }
})

test('what is answered though not all of it is here stays so: asked for again, by a snapshot, after a restart', async (t) => {
  const folder = await tempFolder(t)
  const [digest, repositoryId] = [digestOf(1), 10]
  const selected = (seq: number): KnownEvent => ({
    seq,
    stream: 'project:1',
    bodyHash: `body ${seq}`,
    at: seq,
    fact: { type: 'selected', ruleId: 3, projectId: 1, repositoryId, digest },
  })
  let statements = await openStatements(folder)
  try {
    const takeSnapshot = async (seq: number) => {
      const writer = statements.startSnapshot('project:1')
      await writer.take({ project: 'p1', public: true })
      await writer.take({ rule: 3, repository: repositoryId, selected: digest })
      await writer.commit({ stream: 'project:1', epoch: 1, seq, ahead: [] })
    }
    const known = async () => {
      for await (const selection of statements.selections()) return selection
      throw new Error('nothing is selected')
    }
    const standing = async () => {
      const { isHeld, isDemoted } = await known()
      return { isHeld, isDemoted }
    }
    await takeSnapshot(4)
    await statements.apply([], headAt(4))
    await statements.demote(await known())
    await statements.apply([selected(5)], headAt(5))
    await takeSnapshot(6)
    await statements.close()
    statements = await openStatements(folder)
    assert.deepEqual(await standing(), { isHeld: false, isDemoted: true })
    await statements.markHeld(await known())
    await takeSnapshot(7)
    assert.deepEqual(await standing(), { isHeld: false, isDemoted: false })
  } finally {
    await statements.close()
  }
})

test('an image that is answered though not all of it is here stays so when a snapshot names the next one', async (t) => {
  const statements = await openStatements(await tempFolder(t), { wantsWhole: () => true })
  const [one, two, three] = [digestOf(1), digestOf(2), digestOf(3)]
  const chosen = (seq: number, digest: Digest) =>
    eventOf(seq, { type: 'selected', ...place, ruleId: 7, digest })
  const selection = { ruleId: 7, ...place, isHeld: false, isDemoted: false }
  try {
    await takeEmpty(statements)
    const rule = eventOf(1, { type: 'rule', ...wholeRule })
    await statements.apply(
      [rule, tagAt(2, one), chosen(3, one), followed(4, 2), tagAt(5, two), chosen(6, two)],
      headAt(6),
    )
    await statements.markHeld({ ...selection, digest: one, seq: 3 })
    await statements.demote({ ...selection, digest: two, seq: 6 })
    await statements.apply([followed(7, 5)], headAt(7))
    const writer = statements.startSnapshot('project:1')
    await writer.take({ project: 'p1', public: true })
    await writer.take({ repository: repositoryId, name: 'p1/app' })
    await writer.take({ repository: repositoryId, tag: 'v1', digest: three })
    await writer.take({ rule: 7, repository: repositoryId, selected: three })
    await writer.commit({ stream: 'project:1', epoch: 1, seq: 9, ahead: [] })
    assert.equal(statements.heldTag(1, repositoryId, 'v1'), two)
  } finally {
    await statements.close()
  }
})

test('what a log that began anew does not list any more is remembered for a while', async (t) => {
  const folder = await tempFolder(t)
  const [kept, lost, left] = [digestOf(1), digestOf(2), digestOf(3)]
  let time = 0
  const open = () => openStatements(folder, { unlistedMs: 1000, now: () => time })
  let statements = await open()
  try {
    const takeSnapshot = async (epoch: number, project: number, manifests: readonly Digest[]) => {
      const writer = statements.startSnapshot(streamOf(project))
      await writer.take({ project: `p${project}`, public: true })
      for (const manifest of manifests) await writer.take({ repository: 10, manifest })
      await writer.commit({ stream: streamOf(project), epoch, seq: 4, ahead: [] })
    }
    await takeSnapshot(1, 1, [kept, lost])
    await takeSnapshot(1, 2, [left])
    await takeSnapshot(1, 1, [kept, lost])
    assert.deepEqual(statements.unlisted(), [])
    await statements.restart()
    await takeSnapshot(2, 1, [kept])
    await statements.drop(streamOf(2))
    assert.deepEqual(statements.unlisted(), [lost, left])
    await statements.close()
    statements = await open()
    assert.deepEqual(statements.unlisted(), [lost, left])
    // Out of scope, and not gone.
    await statements.drop(streamOf(1))
    time = 1000
    assert.deepEqual(statements.unlisted(), [])
  } finally {
    await statements.close()
  }
})

test('which blob has a list of its pieces is known by events and by snapshots, in its project alone', async (t) => {
  const statements = await openStatements(join(await tempFolder(t), 'log'))
  t.after(() => statements.close())
  const stream = streamOf(1)
  const writer = statements.startSnapshot(stream)
  await writer.take({ project: 'one', public: true })
  await writer.take({ pieceList: { digest: digestOf(1), list: digestOf(2) }, skippable: true })
  await writer.commit({ stream, epoch: 1, seq: 0, ahead: [] })
  const fact = { type: 'piece-list', projectId: 1, digest: digestOf(3), list: digestOf(4) } as const
  const head = { epoch: 1, seq: 1, hash: Buffer.alloc(32) }
  await statements.apply([{ seq: 1, stream, bodyHash: '1', at: 1, fact }], head)
  assert.deepEqual(
    [1, 3, 2].map((seq) => statements.pieceList(1, digestOf(seq))),
    [digestOf(2), digestOf(4), undefined],
  )
  assert.equal(statements.pieceList(2, digestOf(1)), undefined)
})

test('a snapshot takes its place at once with what the log has said since: no tag goes back between them', async (t) => {
  const statements = await openStatements(join(await tempFolder(t), 'log'))
  t.after(() => statements.close())
  const [stream, repository] = [streamOf(1), repositoryOf(1)]
  const head = { epoch: 1, seq: 9, hash: Buffer.alloc(32) }
  await statements.apply([], head)
  const writer = statements.startSnapshot(stream)
  await writer.take({ project: 'one', public: true })
  await writer.take({ repository, name: 'one/app' })
  await writer.take({ repository, tag: 'latest', digest: digestOf(4) })
  const fact = { projectId: 1, repositoryId: repository, tag: 'latest', digest: digestOf(9) }
  const event = { seq: 9, stream, bodyHash: '9', at: 9, fact: { type: 'tag', ...fact } } as const
  const seen = new Set<Digest | undefined>()
  let isDone = false
  const committed = writer
    .commit(
      { stream, epoch: 1, seq: 4, ahead: [] },
      { events: [event], revoked: new Map([['robot:1', 9]]) },
    )
    .finally(() => (isDone = true))
  while (!isDone) {
    seen.add(statements.tag(1, repository, 'latest')?.digest)
    await new Promise(setImmediate)
  }
  await committed
  seen.add(statements.tag(1, repository, 'latest')?.digest)
  assert.deepEqual([...seen], [undefined, digestOf(9)])
  assert.equal(statements.knows(stream), true)
})
