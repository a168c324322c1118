import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { createGate, type Gate } from '../../../shared/upstream/gate.ts'
import { createTestClock, waitFor } from '../../kit/clock.ts'

const away = () => Promise.reject(new SourceError('unavailable', 'no answer', { isAway: true }))
const absent = () => Promise.reject(new SourceError('absent', '404'))
const fine = () => Promise.resolve('fine')

function createStand() {
  const clock = createTestClock()
  const gate = createGate({ name: 'up', now: clock.now, random: () => 0 })
  return { clock, gate }
}

/** Whether the work was done. */
async function isLetThrough(gate: Gate, work: () => Promise<unknown> = fine): Promise<boolean> {
  let done = false
  await gate
    .pass(() => {
      done = true
      return work()
    })
    .catch(() => undefined)
  return done
}

async function open(gate: Gate): Promise<void> {
  for (let failure = 0; failure < 5; failure++) assert.ok(await isLetThrough(gate, away))
  assert.ok(gate.isOpen)
}

test('five failures in a row open it, and an answer of any kind between them starts the count again', async () => {
  const { gate } = createStand()
  for (const work of [away, away, away, away, absent, away, away, away, away]) {
    assert.ok(await isLetThrough(gate, work))
    assert.equal(gate.isOpen, false)
  }
  assert.ok(await isLetThrough(gate, away))
  assert.ok(gate.isOpen)
  await assert.rejects(gate.pass(fine), { code: 'unavailable', retryAfterMs: 1000 })
})

test('one request at a time sees whether the upstream is back, each after a longer wait', async () => {
  const { gate, clock } = createStand()
  await open(gate)
  for (const waitMs of [1000, 2000, 4000, 8000, 10_000, 10_000]) {
    clock.advance(waitMs - 1)
    assert.equal(await isLetThrough(gate), false, `before ${waitMs}`)
    clock.advance(1)
    const probe = Promise.withResolvers<never>()
    const probing = isLetThrough(gate, () => probe.promise)
    assert.equal(await isLetThrough(gate), false, 'another beside the probe')
    probe.reject(new SourceError('unavailable', 'no answer', { isAway: true }))
    assert.ok(await probing)
  }
  clock.advance(10_000)
  assert.ok(await isLetThrough(gate, absent), 'a 404 is an answer')
  assert.equal(gate.isOpen, false)
  assert.ok(await isLetThrough(gate, away), 'and the count is at its start')
  assert.equal(gate.isOpen, false)
})

test('two failures that kept their clients waiting are enough', async () => {
  const { gate, clock } = createStand()
  const slowly = async () => {
    clock.advance(1000)
    return away()
  }
  await isLetThrough(gate, slowly)
  assert.equal(gate.isOpen, false)
  await isLetThrough(gate, slowly)
  assert.ok(gate.isOpen)
})

test('a client whose request looks whether the upstream is back does not wait for one that hangs', async () => {
  const { gate, clock } = createStand()
  await open(gate)
  clock.advance(1000)
  const answer = Promise.withResolvers<string>()
  const discarded: string[] = []
  const discard = (late: string) => void discarded.push(late)
  const probe = gate.pass(() => answer.promise, { discard })
  await assert.rejects(probe, { code: 'unavailable', isAway: true })
  assert.equal(await isLetThrough(gate), false, 'it is still looking')
  answer.resolve('late')
  await answer.promise
  await waitFor('its answer to be given up', () => discarded.length === 1)
  assert.equal(gate.isOpen, false)
  assert.ok(await isLetThrough(gate))
})

test('one that has something else to answer meanwhile waits for the probe, whose answer is not lost', async () => {
  const { gate, clock } = createStand()
  await open(gate)
  clock.advance(1000)
  const answer = Promise.withResolvers<string>()
  const probe = gate.pass(() => answer.promise, { waits: true })
  const impatient = new Promise((resolve) => setTimeout(resolve, 60))
  assert.equal(await Promise.race([probe, impatient]), undefined)
  answer.resolve('late')
  assert.equal(await probe, 'late')
  assert.equal(gate.isOpen, false)
})

test('a client that leaves its probe says nothing of the upstream: the next one is the probe', async () => {
  const { gate, clock } = createStand()
  await open(gate)
  clock.advance(1000)
  assert.ok(await isLetThrough(gate, () => Promise.reject(new Error('aborted'))))
  assert.ok(gate.isOpen)
  assert.ok(await isLetThrough(gate))
  assert.equal(gate.isOpen, false)
})

test('what was sent before it opened and fails afterwards makes nobody wait longer', async () => {
  const { gate, clock } = createStand()
  const late = Promise.withResolvers<never>()
  const slow = isLetThrough(gate, () => late.promise)
  await open(gate)
  late.reject(new SourceError('unavailable', 'no answer', { isAway: true }))
  await slow
  clock.advance(1000)
  assert.ok(await isLetThrough(gate))
})

test('a pause that is asked for is kept, for a minute at most', async () => {
  const { gate, clock } = createStand()
  const busy = (retryAfterMs: number | undefined) => () =>
    Promise.reject(new SourceError('busy', '429', { retryAfterMs }))
  await isLetThrough(gate, busy(undefined))
  await isLetThrough(gate, busy(7000))
  clock.advance(6999)
  await assert.rejects(gate.pass(fine), { code: 'busy', retryAfterMs: 1 })
  assert.equal(gate.isOpen, false)
  clock.advance(1)
  await isLetThrough(gate, busy(86_400_000))
  clock.advance(60_000)
  assert.ok(await isLetThrough(gate))
})

test('whatever comes, an upstream that is back is let through to within ten seconds', async () => {
  const step = fc.record({
    advance: fc.integer({ min: 0, max: 20_000 }),
    work: fc.constantFrom(away, absent, fine),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60 }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      async (steps, luck) => {
        const clock = createTestClock()
        const gate = createGate({ name: 'up', now: clock.now, random: () => luck })
        for (const { advance, work } of steps) {
          clock.advance(advance)
          await isLetThrough(gate, work)
        }
        clock.advance(10_000)
        assert.ok(await isLetThrough(gate))
        assert.equal(gate.isOpen, false)
      },
    ),
  )
})
