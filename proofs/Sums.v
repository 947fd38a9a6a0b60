(* Finite sums, policies, and Gibbs' inequality for policies with zeros. *)

From Coq Require Import Reals List Lra.
Import ListNotations.
Open Scope R_scope.

Section Sums.
  Context {Y : Type}.

  Fixpoint sum (l : list Y) (f : Y -> R) : R :=
    match l with
    | [] => 0
    | y :: rest => f y + sum rest f
    end.

  (* An expectation under a policy, and a divergence. Where p is zero its term is zero. *)
  Definition expectation (answers : list Y) (p f : Y -> R) : R :=
    sum answers (fun y => p y * f y).

  Definition KL (answers : list Y) (p q : Y -> R) : R :=
    sum answers (fun y => p y * ln (p y / q y)).

  (* Not negative, adding up to one. *)
  Definition policy (answers : list Y) (p : Y -> R) : Prop :=
    (forall y, In y answers -> 0 <= p y) /\ sum answers p = 1.

  (* Where q is zero, p is. Without it the divergence of p from q is infinite. *)
  Definition within (answers : list Y) (p q : Y -> R) : Prop :=
    forall y, In y answers -> q y = 0 -> p y = 0.

  Lemma sum_ext l f g : (forall y, In y l -> f y = g y) -> sum l f = sum l g.
  Proof.
    induction l as [|a l IH]; simpl; intro H; [reflexivity|].
    rewrite H, IH; auto.
  Qed.

  Lemma sum_le l f g : (forall y, In y l -> f y <= g y) -> sum l f <= sum l g.
  Proof.
    induction l as [|a l IH]; simpl; intro H; [lra|].
    apply Rplus_le_compat; auto.
  Qed.

  Lemma sum_scal l c f : sum l (fun y => c * f y) = c * sum l f.
  Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; ring. Qed.

  Lemma sum_plus l f g : sum l (fun y => f y + g y) = sum l f + sum l g.
  Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; ring. Qed.

  Lemma sum_minus l f g : sum l (fun y => f y - g y) = sum l f - sum l g.
  Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; ring. Qed.

  Lemma sum_zero l f : (forall y, In y l -> f y = 0) -> sum l f = 0.
  Proof.
    induction l as [|a l IH]; simpl; intro H; [reflexivity|].
    rewrite H, IH; auto; ring.
  Qed.

  Lemma sum_nonneg l f : (forall y, In y l -> 0 <= f y) -> 0 <= sum l f.
  Proof.
    intro H. rewrite <- (sum_zero l (fun _ => 0)) by reflexivity.
    now apply sum_le.
  Qed.

  Lemma sum_app l k f : sum (l ++ k) f = sum l f + sum k f.
  Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; ring. Qed.

  Lemma sum_le_eq l f g :
    (forall y, In y l -> f y <= g y) -> sum l f = sum l g ->
    forall y, In y l -> f y = g y.
  Proof.
    induction l as [|a l IH]; simpl; intros H E y I; [easy|].
    destruct I as [<-|I].
    - assert (sum l f <= sum l g) by (apply sum_le; auto).
      specialize (H a (or_introl eq_refl)). lra.
    - apply IH; auto.
      assert (sum l f <= sum l g) by (apply sum_le; auto).
      specialize (H a (or_introl eq_refl)). lra.
  Qed.

  Lemma sum_positive l f y :
    (forall z, In z l -> 0 <= f z) -> In y l -> 0 < f y -> 0 < sum l f.
  Proof.
    induction l as [|a l IH]; simpl; intros H I P; [easy|].
    assert (0 <= sum l f) by (apply sum_nonneg; auto).
    assert (0 <= f a) by auto.
    destruct I as [->|I]; [lra|].
    assert (0 < sum l f) by (apply IH; auto). lra.
  Qed.

  Lemma sum_member l f y : (forall z, In z l -> 0 <= f z) -> In y l -> f y <= sum l f.
  Proof.
    induction l as [|a l IH]; simpl; intros H I; [easy|].
    assert (0 <= sum l f) by (apply sum_nonneg; auto).
    assert (0 <= f a) by auto.
    destruct I as [->|I]; [lra|].
    assert (f y <= sum l f) by (apply IH; auto). lra.
  Qed.

  Lemma sum_constant_factor l p c : sum l (fun y => p y * c) = sum l p * c.
  Proof. induction l as [|a l IH]; simpl; [|rewrite IH]; ring. Qed.

  Lemma policy_has_an_answer l p :
    policy l p -> exists y, In y l /\ 0 < p y.
  Proof.
    intros [P S]. induction l as [|a l IH]; simpl in *; [lra|].
    destruct (Rle_lt_or_eq_dec 0 (p a) (P a (or_introl eq_refl))) as [H|H].
    - eauto.
    - destruct IH as (y & I & Hy); [auto|lra|]. eauto.
  Qed.

  Lemma expectation_of_a_constant l p c :
    policy l p -> expectation l p (fun _ => c) = c.
  Proof. intros [_ S]. unfold expectation. rewrite sum_constant_factor, S. ring. Qed.

  Lemma expectation_minus l p f g :
    expectation l p (fun y => f y - g y) = expectation l p f - expectation l p g.
  Proof.
    unfold expectation. rewrite <- sum_minus. apply sum_ext. intros. ring.
  Qed.

  Lemma expectation_scal l p c f :
    expectation l p (fun y => c * f y) = c * expectation l p f.
  Proof.
    unfold expectation. rewrite <- sum_scal. apply sum_ext. intros. ring.
  Qed.

  (* Two expectations are equal if their functions are where the policy is not zero. *)
  Lemma expectation_ext l p f g :
    policy l p -> (forall y, In y l -> 0 < p y -> f y = g y) ->
    expectation l p f = expectation l p g.
  Proof.
    intros [P _] H. apply sum_ext. intros y I.
    destruct (Rle_lt_or_eq_dec _ _ (P y I)) as [Hy|<-]; [|ring].
    now rewrite (H y I Hy).
  Qed.
End Sums.

Lemma sum_derivative {Y} (l : list Y) (f : R -> Y -> R) (f' : Y -> R) t :
  (forall y, In y l -> derivable_pt_lim (fun s => f s y) t (f' y)) ->
  derivable_pt_lim (fun s => sum l (f s)) t (sum l f').
Proof.
  induction l as [|a l IH]; simpl; intro H.
  - apply derivable_pt_lim_const.
  - apply (derivable_pt_lim_plus (fun s => f s a) (fun s => sum l (f s))); auto.
Qed.

Lemma ln_below x : 0 < x -> ln x <= x - 1.
Proof.
  intro P. pose proof (exp_ineq1_le (ln x)) as H. rewrite exp_ln in H; lra.
Qed.

Lemma ln_touches x : 0 < x -> ln x = x - 1 -> x = 1.
Proof.
  intros P E. destruct (Req_dec (ln x) 0) as [Z|N]; [lra|].
  pose proof (exp_ineq1 (ln x) N) as H. rewrite exp_ln in H; lra.
Qed.

Lemma ln_div a b : 0 < a -> 0 < b -> ln (a / b) = ln a - ln b.
Proof.
  intros A B. unfold Rdiv.
  rewrite ln_mult, ln_Rinv; auto using Rinv_0_lt_compat; ring.
Qed.

Lemma exp_minus a b : exp (a - b) = exp a / exp b.
Proof. unfold Rminus, Rdiv. now rewrite exp_plus, exp_Ropp. Qed.

Lemma within_positive {Y} (l : list Y) p q y :
  policy l q -> within l p q -> In y l -> 0 < p y -> 0 < q y.
Proof.
  intros [Q _] W I P. destruct (Rle_lt_or_eq_dec _ _ (Q y I)) as [H|H]; [exact H|].
  rewrite (W y I (eq_sym H)) in P. lra.
Qed.

Lemma gibbs_term p q : 0 <= p -> 0 <= q -> (q = 0 -> p = 0) -> p - q <= p * ln (p / q).
Proof.
  intros P Q W. destruct (Rle_lt_or_eq_dec _ _ P) as [P'|<-]; [|lra].
  assert (Q' : 0 < q) by (destruct (Rle_lt_or_eq_dec _ _ Q) as [H|H]; [exact H|lra]).
  assert (H : 0 < q / p) by (apply Rdiv_lt_0_compat; lra).
  pose proof (Rmult_le_compat_l p _ _ P (ln_below _ H)) as K.
  rewrite ln_div in K |- * by lra.
  replace (p * (q / p - 1)) with (q - p) in K by (field; lra). lra.
Qed.

Lemma gibbs_term_touches p q :
  0 <= p -> 0 <= q -> (q = 0 -> p = 0) -> p - q = p * ln (p / q) -> p = q.
Proof.
  intros P Q W E. destruct (Rle_lt_or_eq_dec _ _ P) as [P'|<-]; [|lra].
  assert (Q' : 0 < q) by (destruct (Rle_lt_or_eq_dec _ _ Q) as [H|H]; [exact H|lra]).
  assert (H : 0 < q / p) by (apply Rdiv_lt_0_compat; lra).
  assert (K : q / p = 1).
  { apply ln_touches; [exact H|]. rewrite ln_div in E |- * by lra.
    apply (Rmult_eq_reg_l p); [|lra].
    replace (p * (q / p - 1)) with (q - p) by (field; lra). lra. }
  replace q with (q / p * p) by (field; lra). rewrite K. ring.
Qed.

(* Gibbs' inequality, for policies with zeros. *)
Theorem gibbs_inequality {Y} (answers : list Y) p q :
  policy answers p -> policy answers q -> within answers p q -> 0 <= KL answers p q.
Proof.
  intros [P Sp] [Q Sq] W.
  assert (H : sum answers (fun y => p y - q y) <= KL answers p q)
    by (apply sum_le; intros y I; apply gibbs_term; auto).
  rewrite sum_minus in H. lra.
Qed.

Theorem gibbs_equality {Y} (answers : list Y) p q :
  policy answers p -> policy answers q -> within answers p q ->
  (KL answers p q = 0 <-> forall y, In y answers -> p y = q y).
Proof.
  intros [P Sp] [Q Sq] W. split.
  - intros E y I. apply gibbs_term_touches; auto.
    apply (sum_le_eq answers (fun y => p y - q y) (fun y => p y * ln (p y / q y)));
      [intros; apply gibbs_term; auto | rewrite sum_minus; unfold KL in E; lra | exact I].
  - intro H. apply sum_zero. intros y I.
    destruct (Req_dec (q y) 0) as [Z|N]; [rewrite (W y I Z); ring|].
    rewrite (H y I). unfold Rdiv. rewrite Rinv_r, ln_1 by exact N. ring.
Qed.

(* The slip: one of the two does not add up to one. *)
Theorem gibbs_false_for_unnormalised_weights :
  ~ (forall (Y : Type) (answers : list Y) p q,
       (forall y, In y answers -> 0 < p y) -> (forall y, In y answers -> 0 < q y) ->
       0 <= KL answers p q).
Proof.
  intro H. specialize (H unit [tt] (fun _ => 1) (fun _ => exp 1)).
  unfold KL in H. simpl in H. rewrite ln_div, ln_1, ln_exp in H by (try apply exp_pos; lra).
  assert (0 <= 1 * (0 - 1) + 0)
    by (apply H; intros; [lra | apply exp_pos]). lra.
Qed.
