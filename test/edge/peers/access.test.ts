import assert from 'node:assert/strict'
import { generateKeyPairSync, X509Certificate } from 'node:crypto'
import { before, test } from 'node:test'
import { createPeerAccess } from '../../../edge/peers/access.ts'
import type { EdgeCaller, PullTarget } from '../../../edge/access/authorise.ts'
import type { RepositoryName } from '../../../shared/oci/reference.ts'
import type { RosterEdge } from '../../../shared/replication/events.ts'
import { createCa, issueEdgeCertificate } from '../../../shared/trust/pki.ts'

const digest = `sha256:${'1'.repeat(64)}`
const roster: Record<string, Partial<RosterEdge>> = {
  well: { scope: '*' },
  leaves: { scope: '*', draining: true },
  suspended: { scope: '*', suspended: true },
}
const projects = new Map([
  ['open', 1],
  ['secret', 2],
])
let callers: Readonly<Record<string, EdgeCaller>> = {}

before(async () => {
  const ca = await createCa('Edges', new Date())
  const { publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const pem = publicKey.export({ type: 'spki', format: 'pem' }).toString()
  const callerOf = (edgeId: string): EdgeCaller => {
    const certificate = issueEdgeCertificate(ca, { edgeId, publicKey: pem, now: new Date() })
    const peer = new X509Certificate(certificate)
    const connection = { authorized: true, getPeerX509Certificate: () => peer }
    return { authorization: undefined, connection, address: '', requestId: '' }
  }
  callers = Object.fromEntries([...Object.keys(roster), 'revoked'].map((id) => [id, callerOf(id)]))
})

function accessOf(isFresh: boolean) {
  const access = createPeerAccess({
    upstream: 'primary',
    statements: {
      edge: (id) => roster[id] && ({ edgeId: id, suspended: false, ...roster[id] } as RosterEdge),
      project: (id) => ({ name: '', public: id === 1 }),
      projectIdOf: (name) => projects.get(name),
      repositoryId: () => 1,
      isGone: () => false,
    },
    isFresh: () => isFresh,
    isOpen: (upstream) => upstream === 'docker.io',
  })
  return async (edge: string, repository: string, upstream = 'primary') => {
    const path = { kind: 'blob', repository, digest, text: digest }
    const target = { entry: { id: upstream }, repository: repository as RepositoryName, path }
    const caller = callers[edge]
    assert.ok(caller)
    try {
      await access.pull(caller, target as unknown as PullTarget)
      return 'given'
    } catch (error) {
      return (error as { readonly code: string }).code
    }
  }
}

test('an edge that holds its lease gives what the roster allows', async () => {
  const pull = accessOf(true)
  assert.equal(await pull('well', 'secret/app'), 'given')
  assert.equal(await pull('leaves', 'secret/app'), 'given', 'who leaves still ends what it has to')
  assert.equal(await pull('suspended', 'open/app'), 'DENIED')
  assert.equal(await pull('revoked', 'open/app'), 'DENIED')
})

test('one that is cut off gives only what everybody may read: whose rights ended it cannot know', async () => {
  const pull = accessOf(false)
  assert.equal(await pull('well', 'secret/app'), 'NAME_UNKNOWN')
  assert.equal(await pull('well', 'open/app'), 'given')
  assert.equal(await pull('well', 'library/app', 'docker.io'), 'given')
  assert.equal(await pull('suspended', 'open/app'), 'DENIED', 'as far as it was told')
})
