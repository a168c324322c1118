import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { sql } from 'kysely'
import { openTrustList, type TrustedKey } from '../../../shared/trust/trust-list.ts'
import type { Envelope } from '../../../shared/trust/statement.ts'
import { askApi } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import {
  createOfflineRoot,
  listOf,
  type ShownPending,
  type SignedList,
} from '../../kit/offline-root.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

interface ShownKey {
  readonly id: string
  readonly purpose: string
  readonly state: string
  readonly offline: boolean
  readonly fingerprint: string
  readonly update_time: string
  readonly signs_from?: string
  readonly waits_for_root?: boolean
}

interface ShownTrust {
  readonly root: TrustedKey
  readonly list: Envelope
  readonly rotations: readonly Envelope[]
}

let primary: TestPrimary
let admin: RegistryClient
/** The root from the first test on. */
const root = createOfflineRoot()
/** All that the primary said and wrote down. */
const said: string[] = []
const logged: string[] = []

before(async () => {
  primary = await startTestPrimary({
    primary: { keys: { ahead: '1s' } },
    onLog: (line) => void logged.push(line),
  })
  admin = primary.client(primary.admin)
})

const ask = async (method: string, path: string, body?: object) => {
  const answer = await askApi(admin, method, path, body)
  said.push(String(answer.body))
  return answer
}
const api = async (method: string, path: string, body?: object): Promise<unknown> => {
  const answer = await ask(method, path, body)
  assert.equal(answer.status, 200, String(answer.body))
  return answer.body.length === 0 ? undefined : answer.json()
}
const refused = async (status: number, method: string, path: string, body?: object) => {
  const answer = await ask(method, path, body)
  assert.equal(answer.status, status, `${method} ${path}: ${String(answer.body)}`)
  return String(answer.body)
}
const keysOf = async (purpose: string) =>
  ((await api('GET', '/keys')) as readonly ShownKey[]).filter((key) => key.purpose === purpose)
const stateOf = async (id: string) =>
  ((await api('GET', '/keys')) as readonly ShownKey[]).find((key) => key.id === id)?.state
const rotate = async (purpose: string) =>
  (await api('POST', '/keys/rotate', { purpose })) as ShownKey
const getPending = async (query = '') => (await api('GET', `/keys/pending${query}`)) as ShownPending
const submit = (list: SignedList) => api('POST', '/keys/lists', list)
const trust = async () => {
  const answer = await fetch(new URL('/service/trust', primary.url))
  return (await answer.json()) as ShownTrust
}
const listInForce = async () => {
  const { root: signer, list } = await trust()
  return openTrustList(list, { root: signer })
}
const gauge = async () => {
  const text = await (await fetch(new URL('/metrics', primary.metricsUrl))).text()
  return /^outport_primary_keys_unsigned(?:\{.*\})? (\d)$/m.exec(text)?.[1]
}
const waits = () => logged.filter((line) => line.includes('waits for a root that is kept offline'))

test('the root moves out of the database: both roots sign, and its private half is nowhere', async () => {
  const before = await trust()
  assert.deepEqual(await getPending(), { signers: [], changes: [] })
  assert.equal(await gauge(), '0')
  assert.deepEqual(await keysOf('edge-ca'), [])
  const added = (await api('POST', '/keys/root', { jwk: root.jwk })) as ShownKey
  assert.deepEqual([added.state, added.offline], ['next', true])
  assert.equal(added.fingerprint, root.fingerprint)
  const again = (await api('POST', '/keys/root', { jwk: root.jwk })) as ShownKey
  assert.equal(again.id, added.id, 'a move that broke off goes on')
  await refused(409, 'POST', '/keys/root', { jwk: createOfflineRoot().jwk })
  await refused(409, 'POST', '/keys/rotate', { purpose: 'root' })
  assert.equal(await gauge(), '1')
  assert.equal(waits().length, 1)

  // The root of now signs what changes meanwhile, and the edges' CA was made before it goes.
  assert.equal((await keysOf('edge-ca')).length, 1)
  assert.equal((await listInForce()).ca.length, 1)
  const stale = await getPending()
  const log = await rotate('log')
  assert.ok(log.signs_from)
  assert.ok((await listInForce()).log.some(({ id }) => id === log.id))
  await refused(409, 'POST', '/keys/lists', root.sign(stale))

  const waiting = await getPending()
  assert.deepEqual(waiting.signers, [{ id: added.id, fingerprint: root.fingerprint }])
  assert.ok(waiting.changes.some((change) => change.includes(root.fingerprint)))
  await submit(root.sign(waiting))
  const after = await trust()
  assert.equal(after.root.id, added.id)
  const list = openTrustList(after.list, { root: after.root })
  assert.deepEqual(list, openTrustList(after.list, { root: before.root }))
  assert.deepEqual(list.root, after.root)
  assert.deepEqual(after.rotations.at(-1), after.list)
  const roots = await keysOf('root')
  assert.deepEqual(
    roots.map(({ id, state, offline }) => [id, state, offline]),
    [[added.id, 'active', true]],
  )
  assert.deepEqual(await getPending(), { signers: [], changes: [] })
  assert.equal(await gauge(), '0')
  await refused(409, 'POST', '/keys/root', { jwk: root.jwk })
})

test('a log key signs some time after the root has named it, and not before', async () => {
  await waitFor('the last log key to sign', async () =>
    (await keysOf('log')).every(({ state }) => state !== 'next'),
  )
  assert.match(
    await refused(412, 'POST', '/keys/rotate', { purpose: 'log', at_once: true }),
    /kept offline/,
  )
  const log = await rotate('log')
  assert.deepEqual([log.state, log.waits_for_root, log.signs_from], ['next', true, undefined])
  const ca = await rotate('edge-ca')
  assert.ok(ca.waits_for_root)
  // It is in no list, and shows that the time of all three is over.
  const jwt = await rotate('jwt')
  assert.ok(jwt.signs_from)
  await waitFor('the token key', async () => (await stateOf(jwt.id)) === 'active')
  assert.deepEqual([await stateOf(log.id), await stateOf(ca.id)], ['next', 'next'])
  assert.ok(!(await listInForce()).log.some(({ id }) => id === log.id))
  assert.equal(await gauge(), '1')

  const waiting = await getPending()
  assert.ok(waiting.changes.some((change) => change.startsWith(`log key ${log.id}`)))
  assert.ok(waiting.changes.some((change) => change.includes(ca.fingerprint)))
  await submit(root.sign(waiting))
  const [told] = (await keysOf('log')).filter(({ id }) => id === log.id)
  assert.ok(told && told.update_time > log.update_time, 'its time counts from now on')
  await waitFor(
    'both to sign',
    async () =>
      (await stateOf(log.id)) === 'active' && (await stateOf(ca.id)) === 'active' && 'both',
  )
  assert.deepEqual((await getPending()).changes, [], 'which CA issues is worth no signature')

  const retired = (await keysOf('log')).filter(({ state }) => state === 'retired')
  for (const { id } of retired) await api('DELETE', `/keys/${id}`)
  const dropping = await getPending()
  assert.ok(dropping.changes.some((change) => change.endsWith('counts no more')))
  assert.ok(dropping.changes.includes(`the edge CA that issues is ${ca.fingerprint}`))
  await submit(root.sign(dropping))
  assert.deepEqual(
    (await listInForce()).log.map(({ id }) => id),
    [log.id],
  )
})

test('a list that the root did not sign, or that says something else, is refused', async () => {
  const { version } = await listInForce()
  const waitsBefore = waits().length
  await rotate('log')
  assert.equal(waits().length, waitsBefore + 1)
  const waiting = await getPending()
  const right = root.sign(waiting)
  const [signature] = right.signatures
  assert.ok(signature)
  const { keyid, sig } = signature
  const other = createOfflineRoot()
  const payloadOf = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64')
  const wrong: readonly SignedList[] = [
    other.sign(waiting, keyid),
    { ...right, signatures: [] },
    { ...right, signatures: [{ keyid, sig: '' }] },
    { ...right, signatures: [{ keyid, sig: '\u{fffd}not base64' }] },
    { ...right, signatures: [{ keyid, sig: Buffer.alloc(64).toString('base64') }] },
    { ...right, signatures: [{ keyid: 'another', sig }] },
    { ...right, payload_type: 'application/vnd.outport.log-head.v1+json' },
    { ...right, payload: payloadOf({ ...listOf(waiting), version: 99 }) },
    root.sign({ ...waiting, payload: payloadOf({ nonsense: true }) }),
    root.sign({ ...waiting, payload: Buffer.from('no JSON').toString('base64') }),
  ]
  for (const list of wrong) await refused(400, 'POST', '/keys/lists', list)
  const others = [
    { ...listOf(waiting), version: version + 5 },
    { ...listOf(waiting), log: [] },
    { ...listOf(waiting), root: { id: 'other', jwk: other.jwk } },
  ]
  for (const list of others)
    await refused(
      409,
      'POST',
      '/keys/lists',
      root.sign({ ...waiting, payload: payloadOf(list) }, keyid),
    )
  for (const jwk of [{}, { ...root.jwk, y: root.jwk.x }, { ...root.jwk, crv: 'P-384' }])
    await refused(400, 'POST', '/keys/root', { jwk })
  assert.equal((await listInForce()).version, version)

  // What comes with the right signature is not kept: two of them say that a root names the next one.
  await submit({
    ...right,
    signatures: [{ keyid, sig: '' }, { keyid: 'another', sig }, signature],
  })
  const { list, rotations } = await trust()
  assert.equal(list.signatures.length, 1)
  assert.equal(rotations.length, 1)
  await refused(409, 'POST', '/keys/lists', right)
  const { records } = primary
  const audited = await records
    .selectFrom('audit')
    .select('description')
    .where('resource_type', '=', 'key')
    .where('operation', '=', 'update')
    .execute()
  assert.ok(audited.some(({ description }) => description === `list ${version + 1} is signed`))
})

test('an epoch begins by the signature of the root, or not at all', async () => {
  const { records } = primary
  const epochNow = async () =>
    (await records.selectFrom('event_head').select('epoch').executeTakeFirstOrThrow()).epoch
  const epoch = await epochNow()
  const { version } = await listInForce()
  assert.match(await refused(412, 'POST', '/keys/epoch', { force: true }), /--root FILE/)
  const waiting = await getPending('?epoch=next')
  const said = listOf(waiting)
  assert.deepEqual([said.epoch, said.version], [epoch + 1, version + 100])
  const forged = createOfflineRoot().sign(waiting, waiting.signers[0]?.id)
  await refused(400, 'POST', '/keys/epoch', { force: true, list: forged })
  await refused(409, 'POST', '/keys/epoch', { list: root.sign(waiting) })
  assert.equal(await epochNow(), epoch, 'nothing is left of what was refused')
  await refused(400, 'GET', '/keys/pending?epoch=other')

  const list = root.sign(waiting)
  const state = (await api('POST', '/keys/epoch', { force: true, list })) as { epoch: number }
  assert.equal(state.epoch, epoch + 1)
  assert.equal((await listInForce()).epoch, epoch + 1)
  await waitFor('the log to go on', async () => {
    const row = await records
      .selectFrom('event_batches')
      .select('epoch')
      .orderBy('last_seq', 'desc')
      .executeTakeFirst()
    return row?.epoch === epoch + 1
  })
  await refused(409, 'POST', '/keys/epoch', { force: true, list })
})

test('the root moves on to another file, or back to the primary, and one that waits can be dropped', async () => {
  const next = createOfflineRoot()
  const added = (await api('POST', '/keys/root', { jwk: next.jwk })) as ShownKey
  const waiting = await getPending()
  assert.deepEqual(
    new Set(waiting.signers.map(({ fingerprint }) => fingerprint)),
    new Set([root.fingerprint, next.fingerprint]),
  )
  const [byOld, byNew] = [root.sign(waiting), next.sign(waiting)]
  await refused(400, 'POST', '/keys/lists', byNew)
  await refused(400, 'POST', '/keys/lists', byOld)
  await api('DELETE', `/keys/${added.id}`)
  assert.deepEqual(await getPending(), { signers: [], changes: [] })
  const both = { ...byOld, signatures: [...byOld.signatures, ...byNew.signatures] }
  await refused(409, 'POST', '/keys/lists', both)

  await api('POST', '/keys/root', { jwk: next.jwk })
  const again = await getPending()
  await submit({
    ...root.sign(again),
    signatures: [...root.sign(again).signatures, ...next.sign(again).signatures],
  })
  assert.equal((await keysOf('root'))[0]?.fingerprint, next.fingerprint)

  const made = await rotate('root')
  assert.deepEqual([made.state, made.offline, made.waits_for_root], ['next', false, true])
  const back = await getPending()
  assert.deepEqual(
    back.signers.map(({ fingerprint }) => fingerprint),
    [next.fingerprint],
  )
  await submit(next.sign(back))
  const { root: signer, list, rotations } = await trust()
  assert.equal(signer.id, made.id)
  assert.equal(list.signatures.length, 2)
  assert.equal(rotations.length, 3)
  const log = await rotate('edge-ca')
  assert.ok(log.signs_from, 'the primary signs by itself again')
  const { id } = await rotate('root')
  assert.equal((await trust()).root.id, id)
  assert.deepEqual(await getPending('?epoch=next'), { signers: [], changes: [] })

  // A restart finds it all as it was.
  await primary.restart()
  assert.equal((await trust()).root.id, id)

  const { rows } = await sql<{ readonly text: string }>`
    SELECT row_to_json(k)::text AS text FROM keys k UNION ALL SELECT row_to_json(l)::text FROM trust_lists l
    UNION ALL SELECT row_to_json(a)::text FROM audit a UNION ALL SELECT row_to_json(e)::text FROM events e`.execute(
    primary.records,
  )
  const all = [...rows.map(({ text }) => text), ...said, ...logged].join('\n')
  for (const secret of [...root.secrets, ...next.secrets]) assert.ok(!all.includes(secret))
})
