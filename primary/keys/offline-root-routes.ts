import type { Static } from 'typebox'
import { text } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { Envelope } from '../../shared/trust/statement.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import type { Admitted } from '../accounts/guard.ts'
import type { Deed } from '../store/audit.ts'
import { keyModel, showKey } from './key-model.ts'
import type { OfflineRoot } from './offline-root.ts'

const tag = 'key'
/** A list names a few keys and CAs of 2 KiB each. */
const maxPayload = 262_144

/** A list of keys as a root signed it. */
export const signedListModel = Type.Object({
  payload_type: text(256),
  payload: text(maxPayload, { description: 'Base64: the bytes as `GET /keys/pending` gave them.' }),
  signatures: Type.Array(Type.Object({ keyid: text(64), sig: text(1024) }), { maxItems: 8 }),
})

const pendingModel = Type.Object({
  payload_type: Type.Optional(Type.String()),
  payload: Type.Optional(
    Type.String({ description: 'Base64: the bytes to sign. None where nothing waits.' }),
  ),
  signers: Type.Array(Type.Object({ id: Type.String(), fingerprint: Type.String() }), {
    description: 'The roots that must sign it and are kept offline.',
  }),
  changes: Type.Array(Type.String(), { description: 'What it says that is new, for people.' }),
})

/** The root where it is kept offline: what waits for it, and what it signed. */
export function offlineRootRoutes(
  api: AdminApi,
  {
    offlineRoot,
    deedOf,
  }: { readonly offlineRoot: OfflineRoot; readonly deedOf: (admitted: Admitted) => Deed },
): void {
  api.route({
    method: 'POST',
    path: '/keys/root',
    tag,
    summary: 'Have a key whose private half is kept elsewhere become the root, once it has signed',
    permission: { of: 'system', permission: 'key:create' },
    body: Type.Object({
      jwk: Type.Object({ kty: text(16), crv: text(16), x: text(64), y: text(64) }),
    }),
    responses: { 200: keyModel },
    handle: async ({ body, admitted }) => {
      const { kty, crv, x, y } = body.jwk
      const key = await offlineRoot.add({ kty, crv, x, y }, deedOf(admitted))
      return { status: 200, body: showKey(key) }
    },
  })

  api.route({
    method: 'GET',
    path: '/keys/pending',
    tag,
    summary: 'Get the list of keys that waits to be signed by a root that is kept offline',
    permission: { of: 'system', permission: 'key:list' },
    query: Type.Object({
      epoch: Type.Optional(
        Type.Literal('next', { description: 'The one that has the log go on in a new epoch.' }),
      ),
    }),
    responses: { 200: pendingModel },
    handle: async ({ query }) => {
      const pending = await offlineRoot.pending({ nextEpoch: query.epoch === 'next' })
      if (pending === undefined) return { status: 200, body: { signers: [], changes: [] } }
      const { payloadType, payload, signers, changes } = pending
      const written = payload.toString('base64')
      return {
        status: 200,
        body: { payload_type: payloadType, payload: written, signers, changes },
      }
    },
  })

  api.route({
    method: 'POST',
    path: '/keys/lists',
    tag,
    summary: 'Bring the list of keys that waited into force, signed by the root',
    permission: { of: 'system', permission: 'key:create' },
    body: signedListModel,
    responses: { 200: undefined },
    handle: async ({ body, admitted }) => {
      await offlineRoot.take(envelopeOf(body), deedOf(admitted))
      return { status: 200 }
    },
  })
}

/** A list as the API takes it. */
export function envelopeOf({
  payload_type,
  payload,
  signatures,
}: Static<typeof signedListModel>): Envelope {
  return { payloadType: payload_type, payload, signatures }
}
