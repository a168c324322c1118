import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTurns } from '../../../edge/cache/turns.ts'

test('works of one key run one after another, in the order they came', async () => {
  const turns = createTurns()
  const steps: string[] = []
  const work = (name: string, gate: Promise<void>) =>
    turns.inTurn('key', async () => {
      steps.push(`${name} begins`)
      await gate
      steps.push(`${name} ends`)
      return name
    })
  const first = Promise.withResolvers<void>()
  const works = [work('one', first.promise), work('two', Promise.resolve())]
  await turns.inTurn('another key', async () => void steps.push('another key does not wait'))
  first.resolve()
  assert.deepEqual(await Promise.all(works), ['one', 'two'])
  assert.deepEqual(steps, [
    'one begins',
    'another key does not wait',
    'one ends',
    'two begins',
    'two ends',
  ])
})

test('a work that fails fails for its caller, and the next one has its turn', async () => {
  const turns = createTurns()
  const failing = turns.inTurn('key', () => Promise.reject(new Error('no')))
  const next = turns.inTurn('key', async () => 'done')
  await assert.rejects(failing, /no/)
  assert.equal(await next, 'done')
})

test('nothing is remembered of a key that nobody waits for', async () => {
  const turns = createTurns()
  const works = ['a', 'b', 'a'].map((key) => turns.inTurn(key, async () => undefined))
  const failing = turns.inTurn('c', () => Promise.reject(new Error('no')))
  assert.equal(turns.busyKeys, 3)
  await Promise.allSettled([...works, failing])
  assert.equal(turns.busyKeys, 0)
})
