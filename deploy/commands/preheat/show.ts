import { isRecord } from '../../../shared/config/record.ts'
import { onOneLine } from '../../one-line.ts'

/** A preheat, as the admin API shows it. What is not there is empty. */
export interface ShownPreheat {
  readonly id: number
  readonly image: string
  readonly status: string
  readonly bytes: number
  readonly held: number
  readonly total: number
  readonly edges: readonly {
    readonly name: string
    readonly status: string
    readonly reason: string
    readonly heldBytes: number
  }[]
}

/** Reads a preheat of the admin API. */
export function readPreheat(value: unknown): ShownPreheat {
  const fields = isRecord(value) ? value : {}
  const { edges } = fields
  return {
    id: numberOf(fields['id']),
    image: textOf(fields['image']),
    status: textOf(fields['status']),
    bytes: numberOf(fields['bytes']),
    held: numberOf(fields['held']),
    total: numberOf(fields['total']),
    edges: (Array.isArray(edges) ? edges : []).map((edge: unknown) => {
      const shown = isRecord(edge) ? edge : {}
      return {
        name: textOf(shown['name']),
        status: textOf(shown['status']),
        reason: textOf(shown['reason']),
        heldBytes: numberOf(shown['held_bytes']),
      }
    }),
  }
}

/** For people: how it stands, and what is the matter with each edge that does not hold all of it. */
export function formatPreheat({ id, image, status, bytes, held, total, edges }: ShownPreheat) {
  const lines = edges
    .filter((edge) => edge.status !== 'held')
    .map((edge) => {
      const part = bytes === 0 ? 0 : Math.floor((100 * edge.heldBytes) / bytes)
      return `  ${edge.name}: ${edge.status} (${part} % is there): ${edge.reason}`
    })
  const all = [`preheat ${id} of ${image}: ${status}, held by ${held} of ${total} edges`, ...lines]
  return all.map((line) => `${line.startsWith('  ') ? '  ' : ''}${onOneLine(line)}\n`).join('')
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function numberOf(value: unknown): number {
  return typeof value === 'number' ? value : 0
}
