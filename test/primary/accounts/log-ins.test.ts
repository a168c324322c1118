import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Account } from '../../../primary/accounts/account.ts'
import type { FindAccount } from '../../../primary/accounts/find-account.ts'
import { createLogInLimit } from '../../../shared/auth/log-in-limit.ts'
import { createLogIns } from '../../../primary/accounts/log-ins.ts'
import type { AuditEntry } from '../../../primary/store/audit.ts'
import { createPasswords, type Passwords } from '../../../shared/auth/passwords.ts'
import { OciError } from '../../../shared/oci/errors.ts'

const real = createPasswords({ cost: { logN: 4, blockSize: 8, parallelism: 1 } })

async function createWorld(options: { recall?: boolean } = {}) {
  const alice = (secretHash: string): Account => ({
    caller: { kind: 'user', id: 7, name: 'alice', access: undefined },
    facts: { kind: 'user', id: 7, admin: false },
    secretHash,
  })
  const state = { now: 1_000_000, derivations: 0, queries: 0, isFull: false }
  const accounts = new Map([['alice', alice(await real.hash('Abcd1234'))]])
  const remembered = new Map(accounts)
  const audited: AuditEntry[] = []
  const passwords: Passwords = {
    hash: (password) => real.hash(password),
    verify: (password, hash) => {
      if (state.isFull) return Promise.reject(new OciError('UNAVAILABLE', 'too many at once'))
      state.derivations += 1
      return real.verify(password, hash)
    },
  }
  const logIns = createLogIns({
    findAccount: (name) => {
      state.queries += 1
      return Promise.resolve(accounts.get(name))
    },
    ...(options.recall === true
      ? {
          recallAccount: async (name: string, find: FindAccount) =>
            remembered.get(name) ?? find(name),
        }
      : {}),
    passwords,
    limit: createLogInLimit({
      failures: 3,
      windowMs: 60_000,
      maxEntries: 10,
      now: () => state.now,
    }),
    refusals: createLogInLimit({ failures: 3, windowMs: 60_000, now: () => state.now }),
    appendAudit: (entry) => {
      audited.push(entry)
      return Promise.resolve()
    },
    now: () => state.now,
  })
  const logIn = (username: string, password: string, address = '10.0.0.1') =>
    logIns.logIn({ username, password }, { address })
  const logInAgain = (username: string, password: string) =>
    logIns.logInAgain({ username, password }, { address: '10.0.0.1' })
  return { state, accounts, remembered, audited, logIn, logInAgain, alice }
}

const isTooMany = (error: unknown) =>
  error instanceof OciError && error.status === 429 && error.headers['Retry-After'] === '60'

test('what was proved is not derived again within a minute', async () => {
  const { state, logIn } = await createWorld()
  assert.equal((await logIn('alice', 'Abcd1234'))?.caller.name, 'alice')
  assert.equal((await logIn('alice', 'Abcd1234'))?.caller.name, 'alice')
  assert.equal(state.derivations, 1)
  state.now += 60_001
  await logIn('alice', 'Abcd1234')
  assert.equal(state.derivations, 2)
})

test('a changed password ends what was proved', async () => {
  const { accounts, alice, logIn } = await createWorld()
  await logIn('alice', 'Abcd1234')
  accounts.set('alice', alice(await real.hash('Efgh5678')))
  assert.equal(await logIn('alice', 'Abcd1234'), undefined)
  assert.equal((await logIn('alice', 'Efgh5678'))?.caller.name, 'alice')
})

test('wrong passwords and unknown names are refused alike, and each is in the audit log', async () => {
  const { audited, state, logIn } = await createWorld()
  assert.equal(await logIn('alice', 'Wrong1234'), undefined)
  assert.equal(await logIn('mallory', 'Wrong1234'), undefined)
  assert.equal(await logIn('robot$nobody', 'Wrong1234'), undefined)
  assert.equal(await logIn('a\0b', 'Wrong1234'), undefined)
  assert.equal(state.derivations, 4)
  assert.deepEqual(
    audited.map(({ resource, resourceType, operation, succeeded }) => [
      resource,
      resourceType,
      operation,
      succeeded,
    ]),
    [
      ['alice', 'user', 'login', false],
      ['mallory', 'user', 'login', false],
      ['robot$nobody', 'robot', 'login', false],
      ['a\0b', 'user', 'login', false],
    ],
  )
})

test('no secret reaches the audit log, also when it was typed into the name', async () => {
  const { audited, logIn } = await createWorld()
  await logIn('alice', 'Planted1Secret')
  await logIn('Planted2Secret', '')
  await logIn('mallory', 'Planted3Secret')
  assert.equal(audited.length, 3)
  assert.doesNotMatch(JSON.stringify(audited), /Planted/)
})

test('after three failures even the right password waits, but what is proved goes on', async () => {
  const { audited, state, logIn } = await createWorld()
  await logIn('alice', 'Abcd1234')
  for (const guess of ['Wrong1', 'Wrong2', 'Wrong3']) await logIn('alice', guess)
  await assert.rejects(logIn('alice', 'Wrong4'), isTooMany)
  await assert.rejects(logIn('alice', 'Wrong5'), isTooMany)
  assert.equal((await logIn('alice', 'Abcd1234'))?.caller.name, 'alice')
  state.now += 59_999
  assert.equal(state.derivations, 4)
  assert.equal(audited.length, 4, 'three failures and one line for the flood')
  assert.equal((await logIn('alice', 'Abcd1234', '10.0.0.2'))?.caller.name, 'alice')
})

test('many connections that log in at once cost one derivation and one try', async () => {
  const { state, logIn } = await createWorld()
  const all = await Promise.all(Array.from({ length: 20 }, () => logIn('alice', 'Abcd1234')))
  assert.ok(all.every((account) => account?.caller.name === 'alice'))
  assert.equal(state.derivations, 1)
})

test('an expired robot cannot log in', async () => {
  const { accounts, state, logIn } = await createWorld()
  accounts.set('robot$ci', {
    caller: { kind: 'robot', id: 3, name: 'robot$ci', access: undefined },
    facts: { kind: 'robot', id: 3, projectId: 1, permissions: [], expiresAt: state.now + 1000 },
    secretHash: await real.hash('Abcd1234'),
  })
  assert.equal((await logIn('robot$ci', 'Abcd1234'))?.caller.id, 3)
  state.now += 1000
  assert.equal(await logIn('robot$ci', 'Abcd1234'), undefined)
})

test('a remembered account saves the query, and a new password works at once', async () => {
  const { accounts, state, alice, logIn, logInAgain } = await createWorld({ recall: true })
  await logIn('alice', 'Abcd1234')
  state.queries = 0
  assert.equal((await logInAgain('alice', 'Abcd1234'))?.caller.name, 'alice')
  assert.equal(state.queries, 0)
  accounts.set('alice', alice(await real.hash('Efgh5678')))
  assert.equal((await logInAgain('alice', 'Efgh5678'))?.caller.name, 'alice')
  assert.equal(await logInAgain('alice', 'Wrong1234'), undefined)
})

test('a log-in costs one query at most, whether or not the account is remembered', async () => {
  const { accounts, remembered, state, logInAgain, alice } = await createWorld({ recall: true })
  remembered.clear()
  const queries = async (password: string) => {
    state.queries = 0
    await logInAgain('alice', password)
    return state.queries
  }
  assert.equal(await queries('Abcd1234'), 1, 'nothing is remembered')
  assert.equal(await queries('Wrong1234'), 1, 'nothing is remembered, and the secret is wrong')
  const old = accounts.get('alice')
  if (old !== undefined) remembered.set('alice', old)
  assert.equal(await queries('Abcd1234'), 0, 'it is remembered and proved')
  accounts.set('alice', alice(await real.hash('Efgh5678')))
  assert.equal(await queries('Efgh5678'), 1, 'what is remembered has changed')
})

test('a log-in that was not checked is no failure, however often', async () => {
  const { audited, state, logIn } = await createWorld()
  const isUnavailable = (error: unknown) => error instanceof OciError && error.status === 503
  state.isFull = true
  for (let tries = 0; tries < 10; tries++) {
    await assert.rejects(logIn('alice', 'Abcd1234'), isUnavailable)
  }
  state.isFull = false
  assert.equal((await logIn('alice', 'Abcd1234'))?.caller.name, 'alice')
  assert.deepEqual(audited, [])
})

test('a flood of names that are not checked unlocks nobody', async () => {
  const { state, logIn } = await createWorld()
  for (const guess of ['Wrong1', 'Wrong2', 'Wrong3']) await logIn('alice', guess)
  state.isFull = true
  const flood = Array.from({ length: 100 }, (_, n) => logIn(`name${n}`, 'x'))
  await Promise.allSettled(flood)
  state.isFull = false
  await assert.rejects(logIn('alice', 'Abcd1234'), isTooMany)
})
