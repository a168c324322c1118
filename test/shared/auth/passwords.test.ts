import assert from 'node:assert/strict'
import { createHook } from 'node:async_hooks'
import { pbkdf2Sync } from 'node:crypto'
import { test } from 'node:test'
import { OciError } from '../../../shared/oci/errors.ts'
import {
  createPasswords,
  generateSecret,
  hashGenerated,
  isAcceptablePassword,
} from '../../../shared/auth/passwords.ts'

const cheap = { logN: 10, blockSize: 8, parallelism: 1 }
const passwords = createPasswords({ cost: cheap })

test('a password has its hash, another has not, and two hashes of one differ', async () => {
  const first = await passwords.hash('Abcd1234')
  assert.match(first, /^\$scrypt\$ln=10,r=8,p=1\$[\w+/]{22}\$[\w+/]{43}$/)
  assert.ok(await passwords.verify('Abcd1234', first))
  assert.ok(!(await passwords.verify('Abcd1235', first)))
  assert.ok(!(await passwords.verify('', first)))
  assert.notEqual(first, await passwords.hash('Abcd1234'))
})

test('a hash made with other costs still verifies', async () => {
  const dearer = createPasswords({ cost: { logN: 11, blockSize: 8, parallelism: 2 } })
  assert.ok(await passwords.verify('Abcd1234', await dearer.hash('Abcd1234')))
})

test('hashes that Harbor and passlib stored verify', async () => {
  const harborKey = pbkdf2Sync('Harbor12345', 'aBcDeF', 4096, 16, 'sha256').toString('hex')
  const harbor = `$harbor-pbkdf2-sha256$4096$aBcDeF$${harborKey}`
  assert.ok(await passwords.verify('Harbor12345', harbor))
  assert.ok(!(await passwords.verify('Harbor12346', harbor)))
  const salt = Buffer.from('fbefbeff', 'hex')
  const ab64 = (bytes: Buffer) => bytes.toString('base64').replaceAll('+', '.').replaceAll('=', '')
  const key = pbkdf2Sync('Abcd1234', salt, 1000, 32, 'sha256')
  const passlib = `$pbkdf2-sha256$1000$${ab64(salt)}$${ab64(key)}`
  assert.ok(passlib.includes('.'))
  assert.ok(await passwords.verify('Abcd1234', passlib))
  assert.ok(!(await passwords.verify('abcd1234', passlib)))
})

test('a generated secret obeys the rule and verifies without a derivation', async () => {
  const secret = generateSecret()
  assert.ok(isAcceptablePassword(secret))
  const stored = hashGenerated(secret)
  assert.ok(!stored.includes(secret))
  const blocked = createPasswords({ cost: cheap, concurrency: 0, waiting: 0 })
  assert.ok(await blocked.verify(secret, stored))
  await assert.rejects(blocked.verify('wrong', stored), OciError)
})

test('an account that does not exist verifies nothing, not even an empty password', async () => {
  for (const password of ['', 'Abcd1234']) {
    assert.equal(await passwords.verify(password, undefined), false)
  }
})

test('a refusal derives a key even when there is no account or the hash is a cheap one', async () => {
  const dear = createPasswords({ cost: { logN: 15, blockSize: 8, parallelism: 1 } })
  const stored = await dear.hash('Abcd1234')
  const cpu = async (hash: string | undefined) => {
    const before = process.cpuUsage()
    for (let round = 0; round < 3; round++) await dear.verify('wrong', hash)
    const { user, system } = process.cpuUsage(before)
    return user + system
  }
  await cpu(stored)
  const known = await cpu(stored)
  assert.ok((await cpu(undefined)) > known / 3, 'unknown account')
  assert.ok((await cpu(hashGenerated('Abcd1234'))) > known / 3, 'generated secret')
})

test('a refusal has a derivation at our cost in it, whatever stands in the record', async () => {
  const derivations: string[] = []
  const hook = createHook({
    init: (_id, type) => {
      if (type === 'SCRYPTREQUEST' || type === 'PBKDF2REQUEST') derivations.push(type)
    },
  }).enable()
  const count = async (password: string, stored: string | undefined) => {
    derivations.length = 0
    await passwords.verify(password, stored)
    return derivations.join(' ')
  }
  try {
    const other = createPasswords({ cost: { logN: 4, blockSize: 8, parallelism: 1 } })
    const key = pbkdf2Sync('Harbor12345', 'aBcDeF', 4096, 16, 'sha256').toString('hex')
    const imported = `$harbor-pbkdf2-sha256$4096$aBcDeF$${key}`
    const scrypt = 'SCRYPTREQUEST'
    assert.equal(await count('wrong', undefined), scrypt)
    assert.equal(await count('wrong', hashGenerated('Abcd1234')), scrypt)
    assert.equal(await count('wrong', await passwords.hash('Abcd1234')), scrypt)
    assert.equal(await count('wrong', await other.hash('Abcd1234')), `${scrypt} ${scrypt}`)
    assert.equal(await count('wrong', imported), `PBKDF2REQUEST ${scrypt}`)
    assert.equal(await count('Harbor12345', imported), 'PBKDF2REQUEST')
    assert.equal(await count('Abcd1234', await passwords.hash('Abcd1234')), scrypt)
  } finally {
    hook.disable()
  }
})

test('a broken hash is a fault, not a wrong password', async () => {
  await assert.rejects(passwords.verify('x', 'plain'), /unknown form/)
  await assert.rejects(passwords.verify('x', '$1$abc$def'), /unknown form/)
})

test('derivations over the queue are refused with 503, and the queue goes on', async () => {
  const narrow = createPasswords({ cost: cheap, concurrency: 1, waiting: 2 })
  const results = await Promise.allSettled(
    Array.from({ length: 6 }, () => narrow.verify('x', undefined)),
  )
  assert.equal(results.filter((result) => result.status === 'fulfilled').length, 3)
  for (const result of results) {
    if (result.status === 'fulfilled') continue
    assert.ok(result.reason instanceof OciError)
    assert.equal(result.reason.status, 503)
    assert.equal(result.reason.headers['Retry-After'], '1')
  }
  assert.equal(await narrow.verify('x', undefined), false)
})

test('the rule wants 8 to 128 characters with upper, lower and digit', () => {
  const cases: [string, boolean][] = [
    ['Abcd1234', true],
    ['Abcd123', false],
    ['abcd1234', false],
    ['ABCD1234', false],
    ['Abcdefgh', false],
    [`Aa1${'x'.repeat(125)}`, true],
    [`Aa1${'x'.repeat(126)}`, false],
  ]
  for (const [password, expected] of cases) {
    assert.equal(isAcceptablePassword(password), expected, password)
  }
})
