import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createWriteTurns } from '../../../shared/http/write-turns.ts'

/** Turns of a loop that comes round when it is told to; there are several writers from the start. */
function createStand(bytesPerTurn: number, maxYields = 2) {
  let begin: (() => void) | undefined
  const turns = createWriteTurns({
    bytesPerTurn,
    maxYields,
    nextTurn: (next) => {
      assert.equal(begin, undefined, 'the next turn is asked for once')
      begin = next
    },
  })
  const leaves = [turns.enter(), turns.enter()]
  const leaveAll = () => {
    for (const leave of leaves) leave()
  }
  const written: string[] = []
  const take = (name: string, bytes: number) => turns.take(bytes, () => written.push(name))
  /** @returns what was written in that turn; undefined when nobody asked for one */
  const turn = (): string[] | undefined => {
    const next = begin
    if (next === undefined) return undefined
    begin = undefined
    const before = written.length
    next()
    return written.slice(before)
  }
  // That they came is past.
  take('', 0)
  turn()
  written.length = 0
  return { turns, take, turn, written, leaveAll }
}

test('a writer alone never waits, and needs no turn, until another comes', () => {
  const { turns, take, turn, leaveAll } = createStand(10)
  leaveAll()
  const leave = turns.enter()
  for (let i = 0; i < 3; i++) assert.equal(take('alone', 1000), undefined)
  assert.equal(turns.isBusy(), false)
  assert.equal(turn(), undefined)
  turns.enter()
  assert.equal(take('one', 1000), undefined)
  assert.notEqual(take('other', 1000), undefined)
  leave()
  assert.notEqual(take('last', 1000), undefined, 'nobody overtakes who waits')
  assert.deepEqual(turn(), [], 'another came')
  assert.deepEqual(turn(), ['other'])
  assert.deepEqual(turn(), ['last'])
})

test('those who come when the bytes of the turn are spent go first in the next ones', () => {
  const { turns, take, turn, written } = createStand(10)
  for (const name of ['a', 'b', 'c', 'd', 'e']) take(name, 5)
  assert.deepEqual(written, ['a', 'b'])
  assert.equal(turns.isBusy(), true)
  assert.deepEqual(turn(), ['c', 'd'])
  assert.notEqual(take('late', 1), undefined, 'a small write does not overtake')
  assert.deepEqual(turn(), ['e', 'late'])
  assert.deepEqual(turn(), [])
  assert.equal(turns.isBusy(), false)
})

test('who withdraws gives its turn to the next', () => {
  const { take, turn, written } = createStand(10)
  take('a', 10)
  const withdraw = take('gone', 10)
  take('b', 10)
  withdraw?.()
  assert.deepEqual(turn(), ['b'])
  withdraw?.()
  assert.deepEqual(turn(), [])
  assert.deepEqual(written, ['a', 'b'])
})

test('writers that wait let requests go first, but not for ever', () => {
  const { turns, take, turn } = createStand(10)
  take('a', 10)
  take('b', 10)
  turns.enter()
  assert.deepEqual(turn(), [])
  assert.deepEqual(turn(), ['b'], 'no request came in that turn')
  take('c', 10)
  for (const expected of [[], [], ['c']]) {
    turns.enter()
    assert.deepEqual(turn(), expected)
  }
})

test('a request does not keep its own answer waiting', () => {
  const { turns, take, turn } = createStand(10)
  turns.enter()
  assert.equal(turns.isBusy(), false)
  assert.equal(take('alone', 10), undefined)
  assert.deepEqual(turn(), [])
})

const step = fc.oneof(
  fc.record({ kind: fc.constant('take' as const), bytes: fc.integer({ min: 1, max: 30 }) }),
  fc.record({ kind: fc.constant('withdraw' as const), index: fc.nat() }),
  fc.constant({ kind: 'enter' as const }),
  fc.constant({ kind: 'turn' as const }),
)

test('all write in order, no more in a turn than may be, and nobody waits for ever', () => {
  const limits = { bytes: fc.integer({ min: 1, max: 20 }), yields: fc.nat(3) }
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.record(limits), (steps, limit) => {
      const { turns, take, turn, written } = createStand(limit.bytes, limit.yields)
      const sizes = new Map<string, number>()
      const waiting = new Map<string, () => void>()
      const withdrawn = new Set<string>()
      let turnStart = 0
      let idleTurns = 0
      const checkTurn = (): void => {
        const inTurn = written.slice(turnStart)
        const bytes = inTurn.reduce((sum, name) => sum + (sizes.get(name) ?? 0), 0)
        assert.ok(bytes <= limit.bytes || inTurn.length === 1)
        for (const name of inTurn) waiting.delete(name)
      }
      const nextTurn = (): boolean => {
        checkTurn()
        turnStart = written.length
        const hadToWait = waiting.size > 0
        const inTurn = turn()
        assert.ok(inTurn !== undefined || !hadToWait, 'whoever waits has asked for a turn')
        idleTurns = hadToWait && inTurn?.length === 0 ? idleTurns + 1 : 0
        assert.ok(idleTurns <= limit.yields)
        checkTurn()
        return inTurn !== undefined
      }
      for (const each of steps) {
        if (each.kind === 'turn') nextTurn()
        else if (each.kind === 'enter') turns.enter()
        else if (each.kind === 'take') {
          const name = `${sizes.size}`
          sizes.set(name, each.bytes)
          const withdraw = take(name, each.bytes)
          if (withdraw !== undefined) waiting.set(name, withdraw)
        } else {
          const [name, withdraw] = [...waiting][each.index % waiting.size] ?? []
          if (name === undefined) continue
          withdraw?.()
          waiting.delete(name)
          withdrawn.add(name)
        }
      }
      while (nextTurn());
      assert.deepEqual(
        written,
        [...sizes.keys()].filter((name) => !withdrawn.has(name)),
      )
      assert.equal(turns.isBusy(), false)
    }),
  )
})
