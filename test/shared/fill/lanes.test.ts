import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLanes } from '../../../shared/fill/lanes.ts'

const { signal } = new AbortController()
const limits = { limitOf: (name: string) => (name === 'narrow' ? 1 : 3), total: 4 }

/** Lets everything that can go on do so. */
async function settle() {
  await new Promise((resolve) => setImmediate(resolve))
}

test('each source has its own limit, and all together have one', async () => {
  const lanes = createLanes(limits)
  const entered: string[] = []
  const leave: (() => void)[] = []
  for (const name of ['narrow', 'narrow', 'wide', 'wide', 'wide', 'wide']) {
    void lanes.enter(name, 'client', signal).then((release) => {
      entered.push(name)
      leave.push(release)
    })
  }
  await settle()
  assert.deepEqual(entered, ['narrow', 'wide', 'wide', 'wide'])
  leave[1]?.()
  leave[1]?.()
  await settle()
  assert.deepEqual(entered.slice(4), ['wide'])
  leave[0]?.()
  await settle()
  assert.deepEqual(entered.slice(5), ['narrow'])
  assert.equal(lanes.open, 4)
})

test('clients go before prefetches that have waited longer', async () => {
  const lanes = createLanes(limits)
  const leave = await lanes.enter('narrow', 'client', signal)
  const entered: string[] = []
  for (const priority of ['prefetch', 'client'] as const) {
    void lanes.enter('narrow', priority, signal).then((release) => {
      entered.push(priority)
      release()
    })
  }
  leave()
  await settle()
  assert.deepEqual(entered, ['client', 'prefetch'])
  assert.equal(lanes.open, 0)
})

test('who stops waiting takes no place', async () => {
  const lanes = createLanes(limits)
  const leave = await lanes.enter('narrow', 'client', signal)
  const controller = new AbortController()
  const gone = lanes.enter('narrow', 'client', controller.signal)
  controller.abort(new Error('gone'))
  await assert.rejects(gone, /gone/)
  leave()
  ;(await lanes.enter('narrow', 'client', signal))()
  await assert.rejects(
    lanes.enter('narrow', 'client', AbortSignal.abort(new Error('before'))),
    /before/,
  )
  assert.equal(lanes.open, 0)
})
