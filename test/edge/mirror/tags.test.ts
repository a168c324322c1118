import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { Origin, TagEntry } from '../../../edge/cache/cache-index.ts'
import type { StatedTag } from '../../../edge/replication/stated.ts'
import { createTags, type StaleReason, type TagRules } from '../../../edge/mirror/tags.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import { isTag, parseRepositoryName } from '../../../shared/oci/reference.ts'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { createTestClock, waitFor } from '../../kit/clock.ts'

const origin: Origin = { upstream: 'hub', repository: parseRepositoryName('team/app') }
const tag = 'v1'
assert.ok(isTag(tag))
const [one, two, three] = ['one', 'two', 'three'].map((text) => digestOf(Buffer.from(text))) as [
  Digest,
  Digest,
  Digest,
]

/** Tags whose upstream answers as it is told, and a record of what was asked. */
function createStand(rules: Partial<TagRules> = {}) {
  const clock = createTestClock()
  const state: {
    entry: TagEntry | undefined
    held: boolean
    /** What cannot be had. */
    readonly missing: Set<Digest>
    savingMs: number | undefined
    said: StatedTag | undefined
  } = {
    said: undefined,
    entry: { digest: one, checkedAt: clock.now() },
    held: true,
    missing: new Set(),
    savingMs: undefined,
  }
  const stale: StaleReason[] = []
  const asked: PromiseWithResolvers<Digest | undefined>[] = []
  const tags = createTags({
    rules: () => ({ mayRefresh: true, ttlMs: 60_000, waitMs: 20, maxStaleMs: 3_600_000, ...rules }),
    find: () => state.entry,
    stated: () => state.said,
    hold(_origin, _tag, { digest, checkedAt = clock.now() }) {
      if (state.missing.has(digest)) return Promise.reject(away)
      if (state.held && state.entry?.digest !== digest) state.entry = { digest, checkedAt }
      return Promise.resolve(state.held)
    },
    async ask() {
      const answer = Promise.withResolvers<Digest | undefined>()
      asked.push(answer)
      const digest = await answer.promise
      state.entry = digest && { digest, checkedAt: clock.now() }
      return digest
    },
    isHeld: (_origin, digest) => Promise.resolve(state.held && !state.missing.has(digest)),
    savingMs: () => state.savingMs,
    onStale: (_upstream, reason) => stale.push(reason),
    now: clock.now,
  })
  return { clock, state, stale, asked, tags }
}

const away = new SourceError('unavailable', 'no answer')

test('within its TTL a tag costs nothing, and near the end of it one question behind its clients', async () => {
  const { clock, asked, tags } = createStand()
  clock.advance(44_000)
  assert.equal(tags.known(origin, tag), one)
  assert.equal(asked.length, 0)
  clock.advance(14_000)
  for (let times = 0; times < 3; times++) assert.equal(tags.known(origin, tag), one)
  assert.deepEqual(await tags.resolve(origin, tag), { digest: one, staleMs: undefined })
  assert.equal(asked.length, 1, 'one question for all who came')
  asked[0]?.resolve(two)
  await waitFor('the new answer', () => tags.known(origin, tag) === two)
})

test('edges that learned of different images together do not ask together', () => {
  const askedAt = new Set<number>()
  for (let image = 0; image < 50; image++) {
    const { clock, state, asked, tags } = createStand()
    state.entry = { digest: digestOf(Buffer.from(String(image))), checkedAt: clock.now() }
    for (let second = 0; second < 59 && asked.length === 0; second++) {
      clock.advance(1000)
      tags.known(origin, tag)
      if (asked.length > 0) askedAt.add(second)
    }
    assert.equal(asked.length, 1, 'before the end of the TTL')
  }
  assert.ok(askedAt.size >= 5, [...askedAt].join())
})

test('who asks for a tag that an upstream is slow to confirm gets the last answer, and the next one the new', async () => {
  const { clock, stale, asked, tags } = createStand()
  clock.advance(61_000)
  assert.deepEqual(await tags.resolve(origin, tag), { digest: one, staleMs: 61_000 })
  assert.deepEqual(stale, ['slow'])
  asked[0]?.resolve(two)
  await waitFor('the answer that came late', () => tags.known(origin, tag) === two)
  assert.equal(asked.length, 1)
})

test('an upstream that is away leaves the last answer standing, as long as it may', async () => {
  const { clock, stale, asked, tags } = createStand()
  const ask = async () => {
    const resolving = tags.resolve(origin, tag)
    await waitFor('a question', () => asked.length > 0)
    asked.pop()?.reject(away)
    return resolving
  }
  clock.advance(3_600_000)
  assert.deepEqual(await ask(), { digest: one, staleMs: 3_600_000 })
  assert.deepEqual(stale, ['away'])
  clock.advance(1)
  await assert.rejects(ask(), away)
})

test('what is not here any more is not promised', async () => {
  const { clock, state, asked, tags } = createStand()
  state.held = false
  clock.advance(61_000)
  const resolving = tags.resolve(origin, tag)
  await waitFor('a question', () => asked.length > 0)
  asked[0]?.reject(away)
  await assert.rejects(resolving, away)
})

test('an upstream that says no ends the last answer, also for who asks while it is away afterwards', async () => {
  for (const code of ['absent', 'refused'] as const) {
    const { clock, state, asked, tags } = createStand()
    const no = new SourceError(code, 'no')
    clock.advance(61_000)
    const resolving = tags.resolve(origin, tag)
    await waitFor('a question', () => asked.length > 0)
    // As `ask` does of a manifest's no.
    state.entry = undefined
    asked[0]?.reject(no)
    await assert.rejects(resolving, no)
    const again = tags.resolve(origin, tag)
    await waitFor('another question', () => asked.length > 1)
    asked[1]?.reject(away)
    await assert.rejects(again, away)
  }
})

test('with hardly a pull left known tags are not asked for, within the window of the limit', async () => {
  const { clock, state, stale, asked, tags } = createStand()
  state.savingMs = 120_000
  clock.advance(58_000)
  assert.equal(tags.known(origin, tag), one)
  clock.advance(62_000)
  assert.deepEqual(await tags.resolve(origin, tag), { digest: one, staleMs: 120_000 })
  assert.deepEqual(stale, ['rate_limit'])
  assert.equal(asked.length, 0)
  clock.advance(1)
  const resolving = tags.resolve(origin, tag)
  await waitFor('a question', () => asked.length > 0)
  asked[0]?.resolve(two)
  assert.deepEqual(await resolving, { digest: two, staleMs: undefined })
})

test('a clock that was set back makes no tag fresh', async () => {
  const { clock, asked, tags } = createStand()
  clock.advance(-10_000)
  assert.equal(tags.known(origin, tag), undefined)
  const resolving = tags.resolve(origin, tag)
  await waitFor('a question', () => asked.length > 0)
  asked[0]?.reject(away)
  assert.deepEqual(await resolving, { digest: one, staleMs: 0 })
})

describe('where the log of the upstream is followed', () => {
  const saying = (digest: Digest | undefined, said: Partial<StatedTag> = {}): StatedTag => ({
    digest,
    isFresh: false,
    isEarly: false,
    isGuarded: false,
    currentAt: 0,
    maxStaleMs: Infinity,
    ...said,
  })

  test('its word stands inside the lease, and nobody is asked', async () => {
    const { state, asked, tags } = createStand()
    state.said = saying(two, { isFresh: true })
    assert.deepEqual(await tags.resolve(origin, tag), { digest: two, staleMs: undefined })
    assert.equal(asked.length, 0)
  })

  test('outside the lease what is heard is not answered where a rule may want it whole', async () => {
    const { state, asked, tags } = createStand()
    state.said = saying(one, { isGuarded: true })
    const answer = tags.resolve(origin, tag)
    asked[0]?.resolve(two)
    assert.deepEqual(await answer, { digest: one, staleMs: undefined })
    // The log has told of it, and what the rule makes of it.
    const later = tags.resolve(origin, tag)
    state.said = saying(two, { isGuarded: true })
    asked[1]?.resolve(two)
    assert.deepEqual(await later, { digest: two, staleMs: undefined })
  })

  test('an answer from memory is written down before', async () => {
    const { state, asked, tags } = createStand()
    state.said = saying(two, { isFresh: true })
    assert.equal(tags.known(origin, tag), undefined, 'the last answer was another one')
    assert.deepEqual(await tags.resolve(origin, tag), { digest: two, staleMs: undefined })
    assert.equal(state.entry?.digest, two)
    assert.equal(tags.known(origin, tag), two)
    assert.equal(asked.length, 0)
  })

  test('what it says and cannot be had leaves the last answer standing, whatever was heard before that', async () => {
    const { clock, state, stale, tags } = createStand()
    state.said = saying(two, { isFresh: true, currentAt: clock.now() })
    assert.equal((await tags.resolve(origin, tag))?.digest, two)
    clock.advance(5000)
    state.said = saying(three, { isFresh: true, currentAt: clock.now() - 2000 })
    state.missing.add(three)
    assert.deepEqual(await tags.resolve(origin, tag), { digest: two, staleMs: 2000 })
    assert.deepEqual(stale, ['away'])
    assert.equal(state.entry?.digest, two)
    // Where a rule may want it whole, only the log says what may be answered.
    state.said = saying(three, { isFresh: true, isGuarded: true, currentAt: clock.now() })
    await assert.rejects(tags.resolve(origin, tag), away)
  })

  test('outside the lease its word stands in an outage, before the last answer, and is written down as old as it is', async () => {
    const { clock, state, asked, tags } = createStand()
    const currentAt = clock.now()
    clock.advance(1000)
    state.said = saying(two, { currentAt })
    const answer = tags.resolve(origin, tag)
    asked[0]?.reject(away)
    assert.deepEqual(await answer, { digest: two, staleMs: 1000 })
    assert.deepEqual(state.entry, { digest: two, checkedAt: currentAt })
    state.missing.add(three)
    state.said = saying(three, { currentAt })
    const later = tags.resolve(origin, tag)
    asked[1]?.reject(away)
    assert.equal((await later)?.digest, two)
  })

  test('what it said was deleted is not answered from what was heard before', async () => {
    const { clock, state, asked, tags } = createStand()
    clock.advance(1000)
    state.said = saying(undefined, { currentAt: clock.now() })
    const answer = tags.resolve(origin, tag)
    asked[0]?.reject(away)
    await assert.rejects(answer, away)
  })

  test('after a no of the upstream its last word is not answered in an outage', async () => {
    const { clock, state, asked, tags } = createStand()
    state.said = saying(one, { currentAt: clock.now() })
    clock.advance(1000)
    const refused = tags.resolve(origin, tag)
    asked[0]?.resolve(undefined)
    assert.equal(await refused, undefined)
    const cutOff = tags.resolve(origin, tag)
    asked[1]?.reject(away)
    await assert.rejects(cutOff, away)
    // The log goes on, and says that it is there.
    clock.advance(1000)
    state.said = saying(one, { currentAt: clock.now() })
    const later = tags.resolve(origin, tag)
    asked[2]?.reject(away)
    assert.equal((await later)?.digest, one)
  })
})
