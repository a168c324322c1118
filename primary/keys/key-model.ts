import { timestamp } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { KeyInfo } from '../store/key-rotation.ts'

const shownPurposes = ['root', 'log', 'jwt', 'edge-ca'] as const
export type ShownPurpose = (typeof shownPurposes)[number]
export const purposeModel = Type.Union(
  shownPurposes.map((purpose) => Type.Literal(purpose)),
  { description: 'root names the others; log signs events; jwt signs tokens; edge-ca edges.' },
)

/** A key as the API shows it. */
export const keyModel = Type.Object({
  id: Type.String(),
  purpose: purposeModel,
  state: Type.Union(
    (['next', 'active', 'retired'] as const).map((state) => Type.Literal(state)),
    {
      description: 'next: told of, and does not sign yet. retired: what it signed still counts.',
    },
  ),
  offline: Type.Boolean({ description: 'Of a root: its private half is kept elsewhere.' }),
  fingerprint: Type.String({ description: 'sha256, hex; of a CA: of its certificate.' }),
  creation_time: timestamp,
  update_time: timestamp,
})

export function showKey(key: KeyInfo) {
  const { id, purpose, state, isOffline, fingerprint, createdAt, changedAt } = key
  return {
    id,
    purpose: purpose === 'ca' ? ('edge-ca' as const) : purpose,
    state,
    offline: isOffline,
    fingerprint,
    creation_time: createdAt.toISOString(),
    update_time: changedAt.toISOString(),
  }
}
