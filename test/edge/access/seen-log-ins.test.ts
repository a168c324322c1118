import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createSeenLogIns } from '../../../edge/access/seen-log-ins.ts'
import { createPasswords } from '../../../shared/auth/passwords.ts'
import { createTestClock } from '../../kit/clock.ts'

const graceMs = 3_600_000
const reach = { projects: { kind: 'only', ids: [1] } } as const

function createStand() {
  const clock = createTestClock()
  const documents = new Map<string, unknown>()
  const index = {
    document: (name: string) => documents.get(name),
    putDocument: (name: string, value: unknown) => {
      documents.set(name, JSON.parse(JSON.stringify(value)))
      return Promise.resolve()
    },
  }
  let derived = 0
  const plain = createPasswords({ cost: { logN: 1, blockSize: 1, parallelism: 1 } })
  const passwords: typeof plain = {
    hash: (password) => (derived++, plain.hash(password)),
    verify: (password, hash) => (derived++, plain.verify(password, hash)),
  }
  return {
    clock,
    documents,
    derived: () => derived,
    open: () => createSeenLogIns({ index, passwords, graceMs, now: clock.now }),
  }
}

const claims = { subject: 'robot:7', issuedAt: 100.5 }
const robot = { username: 'robot$a+b', password: 'Secret-1234' }

test('a log-in counts for the grace, by its password alone, over restarts, and is not written down', async () => {
  const { clock, documents, open } = createStand()
  const seen = open()
  await seen.took(robot, { claims, reach })
  await seen.flush()
  assert.ok(!JSON.stringify([...documents]).includes(robot.password))
  const again = open()
  const found = await again.check(robot)
  assert.deepEqual(
    { subject: found?.subject, issuedAt: found?.issuedAt, reach: found?.reach },
    { ...claims, reach },
  )
  assert.equal(await again.check({ ...robot, password: 'Secret-1235' }), undefined)
  assert.equal(await again.check({ ...robot, username: 'robot$a+c' }), undefined)
  clock.advance(graceMs - 1)
  assert.ok(await again.check(robot))
  clock.advance(1)
  assert.equal(await again.check(robot), undefined)
})

test('a clock that was set back does not make it last longer', async () => {
  const { clock, open } = createStand()
  const seen = open()
  await seen.took(robot, { claims, reach })
  clock.advance(-3_600_000)
  assert.equal(await seen.check(robot), undefined)
})

test('an account that ends does so while the primary is away', async () => {
  const { clock, open } = createStand()
  const seen = open()
  await seen.took(robot, { claims, reach: { ...reach, endsAt: clock.now() + 1000 } })
  assert.ok(await seen.check(robot))
  clock.advance(1000)
  assert.equal(await seen.check(robot), undefined)
})

test('who guesses does not end what was seen; the password itself, refused by the primary, does', async () => {
  const { open } = createStand()
  const seen = open()
  await seen.took(robot, { claims, reach })
  await seen.refused({ ...robot, password: 'Guess-12345' })
  assert.ok(await seen.check(robot))
  await seen.refused(robot)
  assert.equal(await seen.check(robot), undefined)
  assert.equal(await open().check(robot), undefined, 'nor after a restart')
})

test('a password is derived once, however often it is taken', async () => {
  const { derived, open } = createStand()
  const seen = open()
  for (let count = 0; count < 20; count++) await seen.took(robot, { claims, reach })
  for (let count = 0; count < 20; count++) assert.ok(await seen.check(robot))
  assert.equal(derived(), 1)
  const next = { ...robot, password: 'Another-1234' }
  await seen.took(next, { claims, reach })
  assert.equal(await seen.check(robot), undefined, 'the one before')
  assert.ok(await seen.check(next))
})

test('whatever was kept is read, or passed by', async () => {
  await fc.assert(
    fc.asyncProperty(fc.jsonValue(), async (value) => {
      const { documents, open } = createStand()
      for (const kept of [
        value,
        { pepper: 'x', logIns: value },
        { pepper: 'x', logIns: [value] },
      ]) {
        documents.set('seen-log-ins', kept)
        assert.equal(await open().check(robot), undefined)
      }
    }),
    { numRuns: 30 },
  )
})
