import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createReceivers } from '../../../edge/peers/receivers.ts'

const digest = 'a blob'

test('nobody is sent to an edge that asked later: none waits for one that waits for it', () => {
  const edge = fc.nat({ max: 9 }).map((n) => `e${n}`)
  fc.assert(
    fc.property(fc.array(edge, { maxLength: 60 }), (askers) => {
      const receivers = createReceivers()
      const firstAsked: string[] = []
      for (const asker of askers) {
        receivers.asked(digest, asker)
        if (!firstAsked.includes(asker)) firstAsked.push(asker)
        const before = firstAsked.slice(0, firstAsked.indexOf(asker))
        const others = receivers.others(digest, asker)
        assert.equal(others.length, Math.min(before.length, 3))
        for (const other of others) assert.ok(before.includes(other))
      }
    }),
  )
})

test('each is named first about as often as any other', () => {
  const receivers = createReceivers()
  const first = Array.from({ length: 31 }, (_, n) => {
    receivers.asked(digest, `e${n}`)
    return receivers.others(digest, `e${n}`)[0]
  })
  assert.equal(new Set(first.slice(1)).size, 30, 'a chain, when all come one after the other')
})
