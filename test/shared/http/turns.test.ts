import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'node:test'
import { createTurns } from '../../../shared/http/turns.ts'

test('turns are taken in order, so many at once for each key; who gives up waiting holds up nobody', async () => {
  const turns = createTurns(2)
  const { signal } = new AbortController()
  const taken: string[] = []
  const take = async (name: string, by = signal) => {
    const end = await turns.take('a', by)
    taken.push(name)
    return end
  }
  const [endFirst] = await Promise.all([take('first'), take('second')])
  const impatient = new AbortController()
  const givenUp = assert.rejects(take('third', impatient.signal), /no longer wanted/)
  const fourth = take('fourth')
  const fifth = take('fifth')
  await turns.take('b', signal)
  await turn()
  assert.deepEqual(taken, ['first', 'second'])
  impatient.abort(new Error('no longer wanted'))
  await givenUp
  endFirst()
  const endFourth = await fourth
  await turn()
  assert.deepEqual(taken, ['first', 'second', 'fourth'])
  endFourth()
  await fifth
  await assert.rejects(take('sixth', impatient.signal), /no longer wanted/)
})
