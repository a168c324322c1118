import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { sql } from 'kysely'
import { createFollowedCache } from '../../../primary/events/followed-cache.ts'
import { startFollower, type Follower } from '../../../primary/events/follower.ts'
import { startRelay } from '../../../primary/events/relay.ts'
import { createEvents } from '../../../primary/store/events.ts'
import { listenForHeads } from '../../../primary/store/listen.ts'
import { appendEvents } from '../../../primary/store/outbox.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { waitFor } from '../../kit/clock.ts'
import { createLogKey } from '../../kit/log-keys.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

const log = createLogger({ level: 'error', write: () => undefined })
const { sign } = createLogKey()

/** A follower that a test drives. */
function createDriven() {
  const listeners: ((subjects: readonly string[] | undefined) => void)[] = []
  const driven = { current: true }
  const follower: Pick<Follower, 'isCurrent' | 'onChange'> = {
    isCurrent: () => driven.current,
    onChange: (listener) => void listeners.push(listener),
  }
  const change = (subjects?: readonly string[]) =>
    listeners.forEach((listener) => listener(subjects))
  return { driven, follower, change }
}

test('a value is loaded once, until something that it depends on changes', async () => {
  const { follower, change } = createDriven()
  const cache = createFollowedCache<{ id: number }>({ follower, maxEntries: 10 })
  let loads = 0
  const get = () =>
    cache.get(
      'a',
      ({ id }) => [`project:${id}`],
      async () => ({ id: ++loads && 7 }),
    )
  await get()
  await get()
  assert.equal(loads, 1)
  change(['project:8'])
  await get()
  assert.equal(loads, 1)
  change(['project:7'])
  await get()
  assert.equal(loads, 2)
  change(undefined)
  await get()
  assert.equal(loads, 3)
})

test('absence is not remembered, and nothing is while the log cannot be followed', async () => {
  const { driven, follower } = createDriven()
  const cache = createFollowedCache<string>({ follower, maxEntries: 10 })
  let loads = 0
  const get = (value: string | undefined) =>
    cache.get(
      'a',
      () => ['s'],
      async () => (loads++, value),
    )
  await get(undefined)
  await get(undefined)
  assert.equal(loads, 2)
  await get('here')
  assert.equal(loads, 3)
  driven.current = false
  assert.equal(await get('newer'), 'newer')
  assert.equal(loads, 4)
})

test('a cache bounded by bytes forgets the oldest, and what it says about them', async () => {
  const { follower, change } = createDriven()
  const cache = createFollowedCache<Buffer>({
    follower,
    maxEntries: 100,
    bytes: { max: 100, of: (value) => value.length },
  })
  let loads = 0
  const get = (key: string, size: number) =>
    cache.get(
      key,
      () => [key],
      async () => (loads++, Buffer.alloc(size)),
    )
  for (const key of ['a', 'b', 'c']) await get(key, 40)
  await get('huge', 1000)
  await get('huge', 1000)
  assert.equal(loads, 5)
  await get('c', 40)
  assert.equal(loads, 5)
  change(['a', 'b', 'c', 'huge'])
  await get('c', 40)
  assert.equal(loads, 6)
})

test('whatever loads and changes interleave, no value outlives a change that came after its query', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.array(fc.constantFrom('read', 'write', 'everything'), { minLength: 5, maxLength: 30 }),
      async (scheduler, steps) => {
        const { follower, change } = createDriven()
        const cache = createFollowedCache<{ version: number }>({ follower, maxEntries: 10 })
        let version = 0
        const load = async () => {
          await scheduler.schedule(Promise.resolve(), 'query begins')
          const read = { version }
          await scheduler.schedule(Promise.resolve(), 'answer travels')
          return read
        }
        const read = () => cache.get('key', () => ['subject'], load)
        const running = steps.map(async (step) => {
          await scheduler.schedule(Promise.resolve(), step)
          if (step === 'read') return read()
          version++
          change(step === 'write' ? ['subject'] : undefined)
          return undefined
        })
        await scheduler.waitFor(Promise.all(running))
        const last = read()
        assert.equal((await scheduler.waitFor(last))?.version, version)
      },
    ),
    { numRuns: 200 },
  )
})

test('a change at one primary reaches the caches of another, woken or by polling', async (t) => {
  const database = await createTestDatabase(t)
  const events = createEvents(database.records)
  for (const listen of [undefined, (wake: () => void) => listenForHeads(database, wake)]) {
    const follower = await startFollower({
      events,
      log,
      pollMs: listen === undefined ? 20 : 60_000,
      maxStaleMs: 60_000,
      now: () => performance.now(),
      ...(listen && { listen }),
    })
    const cache = createFollowedCache<string>({ follower, maxEntries: 10 })
    const read = () =>
      cache.get(
        'a',
        () => ['user:1'],
        async () => {
          const { rows } = await sql<{
            value: string
          }>`SELECT value FROM settings WHERE name = 'x'`.execute(database.records)
          return rows[0]?.value
        },
      )
    await sql`INSERT INTO settings VALUES ('x', 'old') ON CONFLICT (name) DO UPDATE SET value = 'old'`.execute(
      database.records,
    )
    assert.equal(await read(), 'old')
    await database.records.transaction().execute(async (trx) => {
      await sql`UPDATE settings SET value = 'new' WHERE name = 'x'`.execute(trx)
      await appendEvents(trx, [{ type: 'user', userId: 1, admin: false }], new Date())
    })
    assert.equal(await read(), 'old')
    await events.number(sign)
    await waitFor('the new value', async () => (await read()) === 'new')
    await follower.stop()
  }
})

/** Milliseconds; the primary's own bound is a second. */
const maxStaleMs = 300

test('a follower that cannot read says so within its bound, once in the log, and recovers', async (t) => {
  const database = await createTestDatabase(t)
  const events = createEvents(database.records)
  const clock = { now: 0, broken: false, failures: 0 }
  const lines: string[] = []
  const follower = await startFollower({
    events: {
      ...events,
      position: async () => {
        if (!clock.broken) return events.position()
        clock.failures++
        throw new Error('away')
      },
    },
    log: createLogger({ level: 'warn', write: (line) => void lines.push(line) }),
    pollMs: 5,
    maxStaleMs: 1000,
    now: () => clock.now,
  })
  t.after(() => follower.stop())
  assert.equal(follower.isCurrent(), true)
  clock.broken = true
  await waitFor('a failed read', () => lines.length > 0)
  assert.equal(follower.isCurrent(), true)
  clock.now += 1000
  assert.equal(follower.isCurrent(), true)
  clock.now += 1
  assert.equal(follower.isCurrent(), false)
  const failures = clock.failures
  await waitFor('more failed reads', () => clock.failures > failures + 5)
  assert.equal(lines.length, 1)
  clock.broken = false
  await waitFor('the follower to recover', () => follower.isCurrent())
})

test('a change that no relay numbers makes caches be passed by, until it is numbered', async (t) => {
  const database = await createTestDatabase(t)
  const events = createEvents(database.records)
  const follower = await startFollower({
    events,
    log,
    pollMs: 10,
    maxStaleMs,
    now: () => performance.now(),
  })
  t.after(() => follower.stop())
  await database.records
    .transaction()
    .execute((trx) => appendEvents(trx, [{ type: 'user-deleted', userId: 1 }], new Date()))
  await waitFor('caches to be passed by', () => !follower.isCurrent())
  await events.number(sign)
  await waitFor('caches to be believed again', () => follower.isCurrent())
})

test('a steady stream of changes does not look like one that stands still', async (t) => {
  const database = await createTestDatabase(t)
  const events = createEvents(database.records)
  const options = { log, pollMs: 10 }
  const relay = startRelay({ events, sign, ...options, retainMs: 60_000, now: () => new Date() })
  const now = () => performance.now()
  const follower = await startFollower({ events, ...options, maxStaleMs: 2000, now })
  for (const until = now() + 2500; now() < until;) {
    const fact = { type: 'user-deleted', userId: 1 } as const
    await database.records.transaction().execute((trx) => appendEvents(trx, [fact], new Date()))
    relay.wake()
    assert.ok(follower.isCurrent())
  }
  await relay.stop()
  await follower.stop()
})

test('a follower that the log was trimmed past drops everything, and so does a log that began anew', async (t) => {
  const { records } = await createTestDatabase(t)
  const events = createEvents(records)
  const told: unknown[] = []
  const paused = Promise.withResolvers<undefined>()
  let looks = 0
  const follower = await startFollower({
    events: {
      ...events,
      position: async () => {
        if (++looks === 2) await paused.promise
        return events.position()
      },
    },
    log,
    pollMs: 5,
    maxStaleMs,
    now: () => performance.now(),
  })
  t.after(() => follower.stop())
  follower.onChange((subjects) => told.push(subjects))
  await records
    .transaction()
    .execute((trx) => appendEvents(trx, [{ type: 'user-deleted', userId: 1 }], new Date()))
  await events.number(sign)
  await events.trim(new Date(Date.now() + 60_000))
  paused.resolve(undefined)
  await waitFor('everything to be dropped', () => told.length > 0)
  assert.deepEqual(told, [undefined])
  await sql`UPDATE event_head SET epoch = 2, seq = 0`.execute(records)
  await waitFor('everything to be dropped again', () => told.length > 1)
  assert.deepEqual(told, [undefined, undefined])
})

/** A small generator, so that a failure can be seen again. */
function createRandom(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

test('two primaries on one database: whatever they do, what either reads is never older than the bound', async (t) => {
  const database = await createTestDatabase(t, { poolSize: 12 })
  const { records } = database
  const events = createEvents(records)
  const random = createRandom(20_261_124)
  const names = ['a', 'b', 'c']
  /** When each version of each name had been committed. */
  const committed = new Map(names.map((name) => [name, [0]]))
  for (const name of names) {
    await sql`INSERT INTO settings VALUES (${name}, '0')`.execute(records)
  }
  const now = () => performance.now()
  /** The first primary's reads of the log stop now and then. */
  let frozen: Promise<unknown> = Promise.resolve()
  const primaries = await Promise.all(
    [0, 1].map(async (number) => {
      const relay = startRelay({
        events,
        sign,
        log,
        pollMs: 10,
        retainMs: 60_000,
        now: () => new Date(),
      })
      const followed = {
        ...events,
        position: async () => {
          if (number === 0) await frozen
          return events.position()
        },
      }
      const follower = await startFollower({ events: followed, log, pollMs: 10, maxStaleMs, now })
      const cache = createFollowedCache<{ version: number }>({ follower, maxEntries: 10 })
      return { relay, follower, cache }
    }),
  )
  let hits = 0
  let reads = 0
  const read = async (name: string) => {
    const { cache } = primaries[random(2)] ?? assert.fail()
    const askedAt = now()
    let loaded = false
    const value = await cache.get(
      name,
      () => [`edge:${name}`],
      async () => {
        loaded = true
        const { rows } = await sql<{
          value: string
        }>`SELECT value FROM settings WHERE name = ${name}`.execute(records)
        await sleep(random(20))
        return { version: Number(rows[0]?.value) }
      },
    )
    reads++
    if (!loaded) hits++
    const due = committed.get(name)?.findLastIndex((at) => at < askedAt - maxStaleMs) ?? -1
    assert.ok(value !== undefined && value.version >= due, `${name}: ${value?.version} < ${due}`)
  }
  const write = async (name: string) => {
    const { relay, follower } = primaries[random(2)] ?? assert.fail()
    const version = await records.transaction().execute(async (trx) => {
      const { rows } = await sql<{ value: string }>`
        UPDATE settings SET value = (value::int + 1)::text WHERE name = ${name} RETURNING value`.execute(
        trx,
      )
      await appendEvents(trx, [{ type: 'edge-deleted', edgeId: name }], new Date())
      return Number(rows[0]?.value)
    })
    const times = committed.get(name)
    if (times !== undefined) times[version] = now()
    follower.invalidate([`edge:${name}`])
    if (random(2) === 0) relay.wake()
  }
  const until = now() + 3000
  const readers = Array.from({ length: 6 }, async () => {
    while (now() < until) {
      await read(names[random(3)] ?? '')
      await sleep(random(10))
    }
  })
  const writers = Array.from({ length: 2 }, async () => {
    while (now() < until) {
      await write(names[random(3)] ?? '')
      await sleep(random(100))
    }
  })
  const freezer = (async () => {
    while (now() < until) {
      await sleep(random(400))
      frozen = sleep(2 * maxStaleMs)
      await frozen
    }
  })()
  await Promise.all([...readers, ...writers, freezer])
  await waitFor('both to follow', () => primaries.every(({ follower }) => follower.isCurrent()))
  await waitFor('the outbox to be empty', async () => !(await events.waiting()))
  await sleep(maxStaleMs)
  for (const name of names) {
    for (const { cache } of primaries) {
      const value = await cache.get(
        name,
        () => [],
        async () => ({ version: -1 }),
      )
      const last = (committed.get(name)?.length ?? 0) - 1
      assert.ok(value?.version === last || value?.version === -1, 'a stale entry survived')
    }
  }
  assert.ok(hits > reads / 10, `the caches were of use: ${hits} of ${reads}`)
  for (const { relay, follower } of primaries) {
    await relay.stop()
    await follower.stop()
  }
})
