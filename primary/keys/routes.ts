import { text, timestamp } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import type { Admitted } from '../accounts/guard.ts'
import type { Deed } from '../store/audit.ts'
import type { KeyPurpose } from '../store/key-rotation.ts'
import type { LogState } from '../store/log-mark.ts'
import { keyModel, purposeModel, showKey, type ShownPurpose } from './key-model.ts'
import { envelopeOf, offlineRootRoutes, signedListModel } from './offline-root-routes.ts'
import type { OfflineRoot } from './offline-root.ts'
import type { Rotation } from './rotation.ts'

export interface KeyRouteDeps {
  readonly rotation: Rotation
  readonly offlineRoot: OfflineRoot
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'key'
const epochModel = Type.Object({
  epoch: Type.Integer(),
  seq: Type.Integer({ description: 'The last event.' }),
  behind: Type.Optional(
    Type.Object(
      {
        epoch: Type.Integer(),
        seq: Type.Integer(),
        shown_by: Type.String(),
        since: timestamp,
      },
      {
        description:
          'The log was once as far as this: the database was restored. Edges are told nothing until a new epoch is accepted.',
      },
    ),
  ),
})

/** The keys that everything is signed by, and the epoch of the log. */
export function keyRoutes(api: AdminApi, { rotation, offlineRoot, now }: KeyRouteDeps): void {
  const deedOf = ({ actor }: Admitted): Deed => ({ actor, now: new Date(now()) })
  offlineRootRoutes(api, { offlineRoot, deedOf })

  api.route({
    method: 'GET',
    path: '/keys',
    tag,
    summary: 'List the signing keys and CAs, without their private halves',
    permission: { of: 'system', permission: 'key:list' },
    responses: { 200: Type.Array(keyModel) },
    handle: async () => ({ status: 200, body: (await rotation.list()).map(showKey) }),
  })

  api.route({
    method: 'POST',
    path: '/keys/rotate',
    tag,
    summary: 'Make the next key of a purpose, which takes the place of the one that signs now',
    permission: { of: 'system', permission: 'key:create' },
    body: Type.Object({
      purpose: purposeModel,
      at_once: Type.Optional(
        Type.Boolean({
          description:
            'It signs from now on, for one that was stolen: what does not know it yet refuses it for seconds.',
        }),
      ),
    }),
    responses: {
      200: Type.Object({
        ...keyModel.properties,
        signs_from: Type.Optional(timestamp),
        waits_for_root: Type.Optional(
          Type.Boolean({
            description: 'It signs some time after the root, which is kept offline, has named it.',
          }),
        ),
      }),
    },
    handle: async ({ body, admitted }) => {
      const options = { atOnce: body.at_once ?? false }
      const purpose = storedPurpose(body.purpose)
      const rotated = await rotation.rotate(purpose, options, deedOf(admitted))
      const { key, signsFrom, waitsForRoot } = rotated
      return {
        status: 200,
        body: {
          ...showKey(key),
          ...(signsFrom && { signs_from: signsFrom.toISOString() }),
          ...(waitsForRoot && { waits_for_root: true }),
        },
      }
    },
  })

  api.route({
    method: 'GET',
    path: '/keys/epoch',
    tag,
    summary: 'Get where the log is, and whether it was further once',
    permission: { of: 'system', permission: 'key:list' },
    responses: { 200: epochModel },
    handle: async () => ({ status: 200, body: showLog(await rotation.log()) }),
  })

  api.route({
    method: 'POST',
    path: '/keys/epoch',
    tag,
    summary: 'Have the log go on in a new epoch, after its database was restored',
    permission: { of: 'system', permission: 'key:create' },
    body: Type.Object({
      force: Type.Optional(
        Type.Boolean({ description: 'Also where nothing shows that it was restored.' }),
      ),
      // `GET /keys/pending?epoch=next`, signed by a root that is kept offline.
      list: Type.Optional(signedListModel),
    }),
    responses: { 200: epochModel },
    handle: async ({ body, admitted }) => {
      const { force = false, list } = body
      const options = { force, list: list && envelopeOf(list) }
      return { status: 200, body: showLog(await rotation.acceptEpoch(options, deedOf(admitted))) }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/keys/:key_id',
    tag,
    summary: 'End a key at once that does not sign: what it signed counts no more',
    permission: { of: 'system', permission: 'key:delete' },
    params: Type.Object({ key_id: text(64) }),
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      await rotation.drop(params.key_id, deedOf(admitted))
      return { status: 200 }
    },
  })
}

function storedPurpose(purpose: ShownPurpose): KeyPurpose {
  return purpose === 'edge-ca' ? 'ca' : purpose
}

function showLog({ epoch, seq, behind }: LogState) {
  return {
    epoch,
    seq,
    ...(behind && {
      behind: {
        epoch: behind.epoch,
        seq: behind.seq,
        shown_by: behind.shownBy,
        since: behind.since,
      },
    }),
  }
}
