import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  openStatement,
  signStatement,
  StatementError,
  statementTypes,
  type Envelope,
} from '../../../shared/trust/statement.ts'
import { openTrustList, type TrustList } from '../../../shared/trust/trust-list.ts'

const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const key = { kid: 'one', privateKey: pair.privateKey }
const keyOf = (kid: string) => (kid === 'one' ? pair.publicKey : undefined)
const refused = (message: RegExp) => (error: unknown) =>
  error instanceof StatementError && message.test(error.message)

test('what a trusted key signed is read again', () => {
  const envelope = signStatement(statementTypes.head, { seq: 7 }, key)
  assert.deepEqual(openStatement(statementTypes.head, envelope, keyOf), { seq: 7 })
})

test('a statement of another type, of an unknown key or without one is refused', () => {
  const envelope = signStatement(statementTypes.head, { seq: 7 }, key)
  const open =
    (given: unknown, keys = keyOf) =>
    () =>
      openStatement(statementTypes.trust, given, keys)
  assert.throws(open(envelope), refused(/not a application/))
  assert.throws(open({ ...envelope, payloadType: statementTypes.trust }), refused(/no key/))
  const list = signStatement(statementTypes.trust, {}, key)
  assert.throws(
    open(list, () => undefined),
    refused(/no key/),
  )
  assert.throws(open({ ...list, signatures: [] }), refused(/no key/))
  for (const nonsense of [
    undefined,
    null,
    'x',
    {},
    { ...list, signatures: [1] },
    { ...list, payload: 1 },
  ])
    assert.throws(open(nonsense), refused(/no signed statement/))
})

test('no changed byte of an envelope is believed', () => {
  const envelope = signStatement(statementTypes.head, { epoch: 1, seq: 41, hash: 'ab' }, key)
  const original = Buffer.from(envelope.payload, 'base64')
  fc.assert(
    fc.property(fc.nat(original.length - 1), fc.integer({ min: 1, max: 255 }), (at, by) => {
      const changed = Buffer.from(original)
      changed.writeUInt8(changed.readUInt8(at) ^ by, at)
      const forged: Envelope = { ...envelope, payload: changed.toString('base64') }
      assert.throws(() => openStatement(statementTypes.head, forged, keyOf), StatementError)
    }),
  )
})

test('a list of trusted keys is taken from the known root alone, and never goes back', () => {
  const root = { id: 'one', jwk: pair.publicKey.export({ format: 'jwk' }) }
  const list = (version: number): TrustList => ({
    version,
    issuer: 'here',
    epoch: 1,
    root,
    log: [],
    ca: [],
  })
  const signed = (version: number) => signStatement(statementTypes.trust, list(version), key)
  assert.deepEqual(openTrustList(signed(2), { root, after: 1, issuer: 'here' }), list(2))
  assert.throws(() => openTrustList(signed(1), { root, after: 2 }), refused(/goes back/))
  assert.throws(() => openTrustList(signed(1), { root, issuer: 'there' }), refused(/another inst/))
  const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const forged = signStatement(statementTypes.trust, list(3), {
    kid: 'one',
    privateKey: stranger.privateKey,
  })
  assert.throws(() => openTrustList(forged, { root }), refused(/no key/))
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey.export({
    format: 'jwk',
  })
  assert.throws(() => openTrustList(signed(1), { root: { id: 'one', jwk: rsa } }), refused(/P-256/))
  assert.throws(
    () => openTrustList(signStatement(statementTypes.trust, { version: 1 }, key), { root }),
    refused(/malformed/),
  )
})
