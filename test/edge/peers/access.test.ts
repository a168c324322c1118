import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPeerAccess } from '../../../edge/peers/access.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { parseOciUrl } from '../../../shared/oci/paths.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import type { RosterEdge } from '../../../shared/replication/events.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'
import { edgeCertificateName } from '../../../shared/trust/edge-certificate.ts'
import { createRosterEdge } from '../../kit/roster-edge.ts'

const repository = parseRepositoryName('secret/app')
const digest = `sha256:${'a'.repeat(64)}`

/** What edge `me` of the site `rack` does with requests from others. */
function accessOf({
  takesChildren,
  isFresh = true,
}: {
  readonly takesChildren: boolean
  readonly isFresh?: boolean
}) {
  const edge = (edgeId: string, site: string, rest: Partial<RosterEdge> = {}) =>
    createRosterEdge({ edgeId, site, ...rest })
  const roster = [
    edge('me', 'rack'),
    edge('near', 'rack'),
    edge('child', 'branch'),
    edge('narrow', 'branch', { scope: [7] }),
    edge('lost', 'branch', { suspended: true }),
    edge('leaves', 'rack', { draining: true }),
  ]
  const access = createPeerAccess({
    edgeId: 'me',
    takesChildren,
    upstream: 'primary',
    isOpen: () => false,
    isFresh: () => isFresh,
    statements: {
      edge: (id) => roster.find(({ edgeId }) => edgeId === id),
      project: (id) => ({ name: '', public: id === 2 }),
      projectIdOf: (name) => (name === 'secret' ? 1 : 2),
      repositoryId: () => 1,
      isGone: () => false,
    },
  })
  const [entry] = createRegistries([{ id: 'primary', url: new URL('https://p.example') }]).entries
  const path = parseOciUrl(`/v2/secret/app/blobs/${digest}`)?.path
  assert.ok(entry && path)
  return (id: string, via?: string, name = repository) => {
    const certificate = {
      subjectAltName: `DNS:${edgeCertificateName(id)}`,
      publicKey: { export: () => '' },
    }
    const connection = { authorized: true, getPeerX509Certificate: () => certificate }
    const caller = { authorization: undefined, address: '', requestId: '', connection, via }
    try {
      return access.pull(caller, { entry, repository: name, path })
    } catch (error) {
      return error instanceof OciError ? error.status : error
    }
  }
}

test('edges of the site are given what their scope allows, and are not sent sideways again', async () => {
  const pull = accessOf({ takesChildren: false })
  assert.deepEqual(await pull('near'), {
    project: 1,
    hop: { via: ['near'], isSideways: true, onlyHeld: false },
  })
  assert.equal(pull('near', 'me, near'), 508)
  assert.equal(pull('child'), 403)
  assert.equal(pull('nobody'), 403)
})

test('those of other sites are given something by an edge that takes children', async () => {
  const pull = accessOf({ takesChildren: true })
  const hop = { via: ['below', 'child'], isSideways: false, onlyHeld: false }
  assert.deepEqual(await pull('child', 'below, child'), { project: 1, hop })
  assert.equal(pull('narrow'), 404)
  assert.equal(pull('lost'), 403)
})

test('one that is cut off gives only what everybody may read: whose rights ended it cannot know', async () => {
  const pull = accessOf({ takesChildren: false, isFresh: false })
  assert.equal(pull('near'), 404)
  const hop = { via: ['near'], isSideways: true, onlyHeld: false }
  assert.deepEqual(await pull('near', undefined, parseRepositoryName('open/app')), {
    project: 2,
    hop,
  })
  assert.equal(pull('lost', undefined, parseRepositoryName('open/app')), 403)
})

test('who leaves still ends what it has to', async () => {
  const pull = accessOf({ takesChildren: false })
  const hop = { via: ['leaves'], isSideways: true, onlyHeld: false }
  assert.deepEqual(await pull('leaves'), { project: 1, hop })
})
