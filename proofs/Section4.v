(* Section 4 of the paper: the optimal policy (4), the reward through it (5), preferences (6),
   the DPO loss (7), its gradient, and what its minimum is. *)

From Coq Require Import Reals List Lra.
From DPO Require Import Sums Section3.
Import ListNotations.
Open Scope R_scope.

Section Definitions.
  Context {X Y : Type}.
  (* All prompts share this list; an answer that a prompt lacks has pi_ref zero there. *)
  Variable answers : list Y.
  Variable pi_ref : X -> Y -> R.
  Variable beta : R.

  (* The partition function (unnumbered, after (4)). *)
  Definition Z (r : X -> Y -> R) (x : X) : R :=
    sum answers (fun y => pi_ref x y * exp (r x y / beta)).

  (* (4) *)
  Definition pi_r (r : X -> Y -> R) (x : X) (y : Y) : R :=
    1 / Z r x * pi_ref x y * exp (r x y / beta).

  (* The r-hat of the paper: (5) without its last term. It has a meaning where both
     probabilities are positive; where one is zero the paper's logarithm is not finite, and
     Coq's is 0. *)
  Definition implicit_reward (pi : X -> Y -> R) (x : X) (y : Y) : R :=
    beta * ln (pi x y / pi_ref x y).

  (* (7) *)
  Definition L_DPO (D : list (comparison X Y)) (pi : X -> Y -> R) : R :=
    - sum D (fun c => weight c * ln (sigma (
        beta * ln (pi (prompt c) (chosen c) / pi_ref (prompt c) (chosen c)) -
        beta * ln (pi (prompt c) (rejected c) / pi_ref (prompt c) (rejected c))))).

  (* Both answers of every comparison have a probability under the reference. *)
  Definition comparable (D : list (comparison X Y)) : Prop :=
    forall c, In c D ->
      0 < pi_ref (prompt c) (chosen c) /\ 0 < pi_ref (prompt c) (rejected c).

  (* At the prompt x every answer is compared with every other. *)
  Definition compared (D : list (comparison X Y)) (x : X) : Prop :=
    forall y1 y2, In y1 answers -> In y2 answers ->
      exists c, In c D /\ 0 < weight c /\ prompt c = x /\ chosen c = y1 /\ rejected c = y2.
End Definitions.

Section Tilting.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_nonzero : beta <> 0.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).

  Lemma Z_positive r x : 0 < Z r x.
  Proof.
    destruct (policy_has_an_answer _ _ (pi_ref_policy x)) as (y & I & P).
    apply (sum_positive answers _ y); auto.
    - intros z K. apply Rmult_le_pos; [now apply pi_ref_policy | left; apply exp_pos].
    - apply Rmult_lt_0_compat; [exact P | apply exp_pos].
  Qed.

  Lemma pi_r_factors r x y : pi_r r x y = pi_ref x y * (exp (r x y / beta) / Z r x).
  Proof. unfold Section4.pi_r, Rdiv. ring. Qed.

  Lemma factor_positive r x y : 0 < exp (r x y / beta) / Z r x.
  Proof. apply Rdiv_lt_0_compat; [apply exp_pos | apply Z_positive]. Qed.

  Lemma pi_r_is_policy r x : policy answers (pi_r r x).
  Proof.
    split.
    - intros y I. rewrite pi_r_factors.
      apply Rmult_le_pos; [now apply pi_ref_policy | left; apply factor_positive].
    - rewrite (sum_ext _ _ (fun y => / Z r x * (pi_ref x y * exp (r x y / beta)))).
      + rewrite sum_scal. apply Rinv_l, Rgt_not_eq, Z_positive.
      + intros y _. rewrite pi_r_factors. unfold Rdiv. ring.
  Qed.

  Lemma pi_r_positive r x y : 0 < pi_ref x y -> 0 < pi_r r x y.
  Proof.
    intro P. rewrite pi_r_factors. apply Rmult_lt_0_compat; [exact P|apply factor_positive].
  Qed.

  Lemma within_pi_r pi r x :
    within answers (pi x) (pi_ref x) -> within answers (pi x) (pi_r r x).
  Proof.
    intros W y I E. apply W; [exact I|]. rewrite pi_r_factors in E.
    pose proof (factor_positive r x y).
    apply Rmult_integral in E as [E|E]; [exact E | lra].
  Qed.

  Lemma pi_r_within r x : within answers (pi_r r x) (pi_ref x).
  Proof. intros y _ E. rewrite pi_r_factors, E. ring. Qed.

  Lemma reward_through_pi_r r x y :
    0 < pi_ref x y ->
    r x y = beta * ln (pi_r r x y / pi_ref x y) + beta * ln (Z r x).
  Proof.
    intro P. rewrite pi_r_factors.
    replace (pi_ref x y * (exp (r x y / beta) / Z r x) / pi_ref x y)
      with (exp (r x y / beta) / Z r x) by (field; pose proof (Z_positive r x); lra).
    rewrite ln_div, ln_exp by (try apply exp_pos; apply Z_positive). field. exact beta_nonzero.
  Qed.

  Lemma distance_to_pi_r r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    J answers pi_ref beta r pi x = beta * ln (Z r x) - beta * KL answers (pi x) (pi_r r x).
  Proof.
    intros P W. unfold J.
    assert (E : expectation answers (pi x) (r x) =
      expectation answers (pi x) (fun y =>
        beta * ln (Z r x) - beta * (ln (pi x y / pi_r r x y) - ln (pi x y / pi_ref x y)))).
    { apply expectation_ext; [exact P|]. intros y I Hy.
      pose proof (within_positive answers _ _ y (pi_ref_policy x) W I Hy) as Py.
      pose proof (pi_r_positive r x y Py).
      rewrite (reward_through_pi_r r x y Py) at 1. rewrite !ln_div by assumption. ring. }
    rewrite E, expectation_minus, expectation_of_a_constant by exact P.
    rewrite expectation_scal, expectation_minus. unfold expectation, KL. ring.
  Qed.

  Lemma policy_of_a_reward pi r f x :
    policy answers (pi x) ->
    (forall y, In y answers -> 0 < pi_ref x y) -> (forall y, In y answers -> 0 < pi x y) ->
    (forall y, In y answers -> r x y = implicit_reward pi_ref beta pi x y + f) ->
    f = beta * ln (Z r x) /\ forall y, In y answers -> pi x y = pi_r r x y.
  Proof.
    intros P R Q H.
    assert (K : forall y, In y answers ->
      pi_ref x y * exp (r x y / beta) = exp (f / beta) * pi x y).
    { intros y I. specialize (R y I). specialize (Q y I).
      rewrite (H y I). unfold implicit_reward. rewrite ln_div by assumption.
      replace ((beta * (ln (pi x y) - ln (pi_ref x y)) + f) / beta)
        with (f / beta + (ln (pi x y) - ln (pi_ref x y))) by (field; exact beta_nonzero).
      rewrite exp_plus, exp_minus, !exp_ln by assumption. field. lra. }
    assert (E : Z r x = exp (f / beta)).
    { unfold Section4.Z. rewrite (sum_ext _ _ _ K), sum_scal, (proj2 P). ring. }
    split; [rewrite E, ln_exp; field; exact beta_nonzero|].
    intros y I. unfold Section4.pi_r. rewrite Rmult_assoc, (K y I), E.
    pose proof (exp_pos (f / beta)). field. lra.
  Qed.
End Tilting.

Section Statements.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation J := (J answers pi_ref beta).
  Local Notation objective := (objective answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation L_DPO := (L_DPO pi_ref beta).

  Let beta_nonzero : beta <> 0 := Rgt_not_eq beta 0 beta_positive.

  (* Z is positive, and lies between the exponentials of any two bounds of the reward. *)
  Theorem partition_is_positive r x : 0 < Z r x.
  Proof. now apply Z_positive. Qed.

  Theorem partition_lies_between r x lo hi :
    (forall y, In y answers -> lo <= r x y <= hi) ->
    exp (lo / beta) <= Z r x <= exp (hi / beta).
  Proof.
    intro H. destruct (pi_ref_policy x) as [P S].
    assert (M : forall a b, a <= b -> exp (a / beta) <= exp (b / beta)).
    { intros a b [L|<-]; [left | right; reflexivity].
      apply exp_increasing, Rmult_lt_compat_r; [now apply Rinv_0_lt_compat | exact L]. }
    rewrite <- (Rmult_1_l (exp (lo / beta))), <- (Rmult_1_l (exp (hi / beta))), <- S.
    rewrite <- !sum_constant_factor.
    split; apply sum_le; intros y I; apply Rmult_le_compat_l; auto; apply M; now apply H.
  Qed.

  (* A shift of the reward leaves Z as a factor. *)
  Theorem partition_of_a_shifted_reward r f x :
    Z (fun x y => r x y + f x) x = exp (f x / beta) * Z r x.
  Proof.
    unfold Section4.Z. rewrite <- sum_scal. apply sum_ext. intros y _.
    replace ((r x y + f x) / beta) with (f x / beta + r x y / beta) by (field; lra).
    rewrite exp_plus. ring.
  Qed.

  (* (4): the objective is beta log Z less beta times the divergence from the optimum. *)
  Theorem objective_is_distance_to_the_optimum r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    J r pi x = beta * ln (Z r x) - beta * KL answers (pi x) (pi_r r x).
  Proof. now apply distance_to_pi_r. Qed.

  (* Its greatest value. *)
  Theorem objective_at_the_optimum r x : J r (pi_r r) x = beta * ln (Z r x).
  Proof.
    pose proof (pi_r_is_policy answers pi_ref beta pi_ref_policy r x) as S.
    rewrite (objective_is_distance_to_the_optimum r (pi_r r) x S (pi_r_within _ _ _ r x)).
    assert (KL answers (pi_r r x) (pi_r r x) = 0) as ->
      by (apply gibbs_equality; auto; intros y _ E; exact E).
    ring.
  Qed.

  (* (4) maximises (3), and nothing else does. *)
  Theorem optimum_is_the_unique_maximiser r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    J r pi x <= J r (pi_r r) x /\
    (J r pi x = J r (pi_r r) x <-> forall y, In y answers -> pi x y = pi_r r x y).
  Proof.
    intros P W. pose proof (pi_r_is_policy answers pi_ref beta pi_ref_policy r x) as S.
    pose proof (within_pi_r answers pi_ref beta pi_ref_policy pi r x W) as V.
    rewrite (objective_is_distance_to_the_optimum r pi x P W), objective_at_the_optimum.
    pose proof (gibbs_inequality _ _ _ P S V) as G.
    rewrite <- (gibbs_equality _ _ _ P S V).
    pose proof (Rmult_le_pos beta _ ltac:(lra) G). split; [lra|]. split; intro E.
    - apply (Rmult_eq_reg_l beta); lra.
    - rewrite E. ring.
  Qed.

  (* The same over prompts, as (3) has it: the optimum is unique at each prompt of the data. *)
  Theorem optimum_is_the_unique_maximiser_over_prompts prompts d r pi :
    (forall x, In x prompts -> 0 <= d x) ->
    (forall x, In x prompts -> policy answers (pi x)) ->
    (forall x, In x prompts -> within answers (pi x) (pi_ref x)) ->
    objective prompts d r pi <= objective prompts d r (pi_r r) /\
    (objective prompts d r pi = objective prompts d r (pi_r r) <->
     forall x, In x prompts -> 0 < d x -> forall y, In y answers -> pi x y = pi_r r x y).
  Proof.
    intros D P W.
    assert (M : forall x, In x prompts -> d x * J r pi x <= d x * J r (pi_r r) x).
    { intros x I. apply Rmult_le_compat_l; [auto|].
      now apply optimum_is_the_unique_maximiser; auto. }
    split; [now apply sum_le|]. split.
    - intros E x I Dx. apply (proj1 (proj2
        (optimum_is_the_unique_maximiser r pi x (P x I) (W x I)))).
      apply (Rmult_eq_reg_l (d x)); [|lra]. exact (sum_le_eq prompts _ _ M E x I).
    - intro H. apply sum_ext. intros x I.
      destruct (Rle_lt_or_eq_dec _ _ (D x I)) as [Dx|<-]; [|ring].
      f_equal. apply optimum_is_the_unique_maximiser; auto.
  Qed.

  (* A large beta keeps (4) at the reference: the factor between them tends to one. *)
  Theorem optimum_lies_near_the_reference r x y lo hi :
    (forall y, In y answers -> lo <= r x y <= hi) -> In y answers ->
    pi_ref x y * exp ((lo - hi) / beta) <= pi_r r x y <=
    pi_ref x y * exp ((hi - lo) / beta).
  Proof.
    intros H I. rewrite pi_r_factors.
    destruct (partition_lies_between r x lo hi H) as [A B].
    pose proof (partition_is_positive r x) as P. pose proof (proj1 (pi_ref_policy x) y I) as R.
    assert (M : forall a b, a <= b -> exp (a / beta) <= exp (b / beta)).
    { intros a b [L|<-]; [left | right; reflexivity].
      apply exp_increasing, Rmult_lt_compat_r; [now apply Rinv_0_lt_compat | exact L]. }
    destruct (H y I) as [L U]. apply M in L, U.
    pose proof (exp_pos (lo / beta)). pose proof (exp_pos (hi / beta)).
    replace ((lo - hi) / beta) with (lo / beta - hi / beta) by (field; lra).
    replace ((hi - lo) / beta) with (hi / beta - lo / beta) by (field; lra).
    rewrite !exp_minus. unfold Rdiv.
    split; apply Rmult_le_compat_l; try exact R; apply Rmult_le_compat; try lra;
      try (left; apply Rinv_0_lt_compat; lra); try (left; apply exp_pos);
      apply Rinv_le_contravar; lra.
  Qed.

  (* A small beta leaves nothing to an answer with a smaller reward than another has. *)
  Theorem optimum_leaves_worse_answers r x y better :
    In y answers -> In better answers -> 0 < pi_ref x better ->
    pi_r r x y <= pi_ref x y / pi_ref x better * exp ((r x y - r x better) / beta).
  Proof.
    intros I J P. rewrite pi_r_factors. pose proof (proj1 (pi_ref_policy x) y I) as R.
    pose proof (exp_pos (r x better / beta)) as E.
    pose proof (Rmult_lt_0_compat _ _ P E) as Q.
    assert (K : pi_ref x better * exp (r x better / beta) <= Z r x).
    { apply (sum_member answers (fun y => pi_ref x y * exp (r x y / beta))); [|exact J].
      intros z L. apply Rmult_le_pos; [now apply pi_ref_policy | left; apply exp_pos]. }
    replace ((r x y - r x better) / beta) with (r x y / beta - r x better / beta)
      by (field; lra).
    rewrite exp_minus.
    replace (pi_ref x y / pi_ref x better * (exp (r x y / beta) / exp (r x better / beta)))
      with (pi_ref x y * (exp (r x y / beta) / (pi_ref x better * exp (r x better / beta))))
      by (field; lra).
    apply Rmult_le_compat_l; [exact R|]. unfold Rdiv.
    apply Rmult_le_compat_l; [left; apply exp_pos | now apply Rinv_le_contravar].
  Qed.

  (* (5) *)
  Theorem reward_from_its_policy r x y :
    0 < pi_ref x y ->
    r x y = beta * ln (pi_r r x y / pi_ref x y) + beta * ln (Z r x).
  Proof. now apply reward_through_pi_r. Qed.

  (* (6) *)
  Theorem preference_from_the_optimum r x y1 y2 :
    0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
    bradley_terry r x y1 y2 =
    1 / (1 + exp (beta * ln (pi_r r x y2 / pi_ref x y2)
                  - beta * ln (pi_r r x y1 / pi_ref x y1))).
  Proof.
    intros P1 P2. rewrite preference_is_sigma_of_the_gap. unfold sigma. do 3 f_equal.
    rewrite (reward_from_its_policy r x y1 P1) at 1.
    rewrite (reward_from_its_policy r x y2 P2) at 1. ring.
  Qed.

  (* (7) is (2) with the implicit reward in place of the reward model. *)
  Theorem dpo_loss_is_the_reward_loss D pi : L_DPO D pi = L_R D (implicit_reward pi).
  Proof. reflexivity. Qed.

  (* At (4) the loss (7) is (2) at the reward: Z has gone from it. *)
  Theorem dpo_loss_at_the_optimum D r :
    comparable pi_ref D -> L_DPO D (pi_r r) = L_R D r.
  Proof.
    intro C. unfold Section4.L_DPO, L_R. f_equal. apply sum_ext. intros c I.
    destruct (C c I) as [W L]. do 3 f_equal.
    rewrite (reward_from_its_policy r _ _ W), (reward_from_its_policy r _ _ L). ring.
  Qed.

  (* At the reference it is log 2. *)
  Theorem dpo_loss_at_the_reference D :
    comparable pi_ref D -> L_DPO D pi_ref = sum D weight * ln 2.
  Proof.
    intro C. unfold Section4.L_DPO.
    rewrite (sum_ext _ _ (fun c => weight c * - ln 2)).
    - rewrite sum_constant_factor. ring.
    - intros c I. destruct (C c I) as [W L]. f_equal.
      rewrite !ln_div by assumption.
      replace (_ - _) with 0 by ring. rewrite sigma_0.
      replace (1 / 2) with (/ 2) by field. apply ln_Rinv. lra.
  Qed.

  Lemma labelled_comparable r pairs : comparable pi_ref pairs ->
    comparable pi_ref (labelled r pairs).
  Proof.
    intros C c I. unfold labelled in I. rewrite in_flat_map in I.
    destruct I as ([w x y1 y2] & I & H). apply C in I as [P1 P2]. simpl in *.
    destruct H as [<-|[<-|[]]]; simpl; auto.
  Qed.

  (* "DPO outline": where the labels come from (1) at r, no policy has a smaller loss (7) than
     the optimal policy (4) of r. *)
  Theorem dpo_loss_is_least_at_the_optimum r pairs pi :
    weighted pairs -> comparable pi_ref pairs ->
    L_DPO (labelled r pairs) (pi_r r) <= L_DPO (labelled r pairs) pi.
  Proof.
    intros W C. rewrite dpo_loss_at_the_optimum by now apply labelled_comparable.
    rewrite dpo_loss_is_the_reward_loss.
    now apply reward_loss_is_least_at_the_true_reward.
  Qed.

  (* ... and where all answers of a prompt are compared, only (4) has as small a loss. *)
  Theorem dpo_minimiser_is_the_optimum r pairs pi x :
    weighted pairs -> comparable pi_ref pairs -> compared answers pairs x ->
    (forall y, In y answers -> 0 < pi_ref x y) ->
    policy answers (pi x) -> (forall y, In y answers -> 0 < pi x y) ->
    L_DPO (labelled r pairs) pi = L_DPO (labelled r pairs) (pi_r r) ->
    forall y, In y answers -> pi x y = pi_r r x y.
  Proof.
    intros W C A R P Q E.
    rewrite dpo_loss_is_the_reward_loss, dpo_loss_at_the_optimum in E
      by now apply labelled_comparable.
    pose proof (proj1 (reward_loss_is_least_at_the_true_preferences _ _ _ W) E) as K.
    destruct (policy_has_an_answer _ _ P) as (y0 & I0 & _).
    apply (policy_of_a_reward answers pi_ref beta beta_nonzero pi r
             (r x y0 - implicit_reward pi x y0)); auto.
    intros y I. destruct (A y y0 I I0) as (c & Ic & Wc & <- & <- & <-).
    specialize (K c Ic Wc). apply preference_depends_on_the_gap_only in K. lra.
  Qed.
End Statements.

(* A.4: sigma' = sigma (1 - sigma), so that the derivative of log sigma is sigma(-z). *)
Lemma log_sigma_derivative z : derivable_pt_lim (fun z => ln (sigma z)) z (sigma (- z)).
Proof.
  apply (derivable_pt_lim_ext (fun z => - ln (1 + exp (- z)))).
  - intro s. unfold sigma. pose proof (exp_pos (- s)).
    rewrite ln_div, ln_1 by lra. ring.
  - assert (E : derivable_pt_lim (fun z => 1 + exp (- z)) z (0 + exp (- z) * - (1))).
    { apply (derivable_pt_lim_plus (fun _ => 1) (fun z => exp (- z)));
        [apply derivable_pt_lim_const|].
      apply (derivable_pt_lim_comp (fun z => - z) exp);
        [apply derivable_pt_lim_opp, derivable_pt_lim_id | apply derivable_pt_lim_exp]. }
    pose proof (exp_pos (- z)).
    apply (derivative_value _ _ (- (/ (1 + exp (- z)) * (0 + exp (- z) * - (1))))).
    + rewrite sigma_opp. unfold sigma. field. lra.
    + apply (derivable_pt_lim_opp (fun z => ln (1 + exp (- z)))).
      apply (derivable_pt_lim_comp (fun z => 1 + exp (- z)) ln); [exact E|].
      apply derivable_pt_lim_ln. lra.
Qed.

Section Gradient.
  Context {X Y : Type}.
  Variables (pi_ref : X -> Y -> R) (beta : R).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation L_DPO := (L_DPO pi_ref beta).

  (* The gradient of (7) along one parameter theta, given that of each log-probability. *)
  Theorem dpo_gradient D (pi : R -> X -> Y -> R) (grad_log_pi : X -> Y -> R) theta :
    comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
    (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
    derivable_pt_lim (fun t => L_DPO D (pi t)) theta
      (- beta * sum D (fun c =>
         weight c *
         (sigma (implicit_reward (pi theta) (prompt c) (rejected c)
                 - implicit_reward (pi theta) (prompt c) (chosen c)) *
          (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c))))).
  Proof.
    intros C P G.
    assert (H : forall x y, 0 < pi_ref x y -> derivable_pt_lim
      (fun t => implicit_reward (pi t) x y) theta (beta * grad_log_pi x y)).
    { intros x y R. apply (derivable_pt_lim_scal (fun t => ln (pi t x y / pi_ref x y))).
      apply (derivable_pt_lim_ext (fun t => ln (pi t x y) - ln (pi_ref x y))).
      - intro t. now rewrite ln_div.
      - apply (derivative_value _ _ (grad_log_pi x y - 0)); [ring|].
        apply (derivable_pt_lim_minus (fun t => ln (pi t x y)) (fun _ => _)); [apply G|].
        apply derivable_pt_lim_const. }
    rewrite <- sum_scal.
    apply (derivative_value _ _ (- sum D (fun c => weight c *
      (sigma (- (implicit_reward (pi theta) (prompt c) (chosen c)
                 - implicit_reward (pi theta) (prompt c) (rejected c))) *
       (beta * grad_log_pi (prompt c) (chosen c)
        - beta * grad_log_pi (prompt c) (rejected c)))))).
    - rewrite <- (Rmult_1_l (sum _ _)), Ropp_mult_distr_l, <- sum_scal. apply sum_ext.
      intros c _. rewrite Ropp_minus_distr. ring.
    - apply (derivable_pt_lim_opp (fun t => sum D _)).
      apply (sum_derivative D (fun t c => _)). intros c I. destruct (C c I) as [W L].
      apply (derivable_pt_lim_scal (fun t => ln (sigma
        (implicit_reward (pi t) (prompt c) (chosen c)
         - implicit_reward (pi t) (prompt c) (rejected c))))).
      apply (derivable_pt_lim_comp (fun t =>
        implicit_reward (pi t) (prompt c) (chosen c)
        - implicit_reward (pi t) (prompt c) (rejected c)) (fun z => ln (sigma z)));
        [|apply log_sigma_derivative].
      apply (derivable_pt_lim_minus
        (fun t => implicit_reward (pi t) (prompt c) (chosen c))
        (fun t => implicit_reward (pi t) (prompt c) (rejected c))); now apply H.
  Qed.
End Gradient.

(* The weight of a pair lies between 0 and 1, and is above one half where the implicit rewards
   rank the pair wrongly. *)
Theorem gradient_weight_is_large_where_the_pair_is_wrong h_w h_l :
  0 < sigma (h_l - h_w) < 1 /\ (1 / 2 < sigma (h_l - h_w) <-> h_w < h_l).
Proof.
  split; [split; [apply sigma_positive | apply sigma_below_one]|]. rewrite <- sigma_0. split.
  - intro H. destruct (Rtotal_order (h_l - h_w) 0) as [L|[E|G]]; [|rewrite E in H|]; try lra.
    apply sigma_increasing in L. lra.
  - intro H. apply sigma_increasing. lra.
Qed.

(* A reward for the refutations, and what its optimal policy on a fair coin is. *)
Definition heads (_ : unit) (y : bool) : R := if y then 1 else 0.

Lemma fair_policies x : policy [true; false] (fair x).
Proof. destruct x. apply fair_policy. Qed.

Lemma odds_of_heads beta : beta <> 0 ->
  implicit_reward fair beta (pi_r [true; false] fair beta heads) tt true -
  implicit_reward fair beta (pi_r [true; false] fair beta heads) tt false = 1.
Proof.
  intro B.
  pose proof (reward_through_pi_r [true; false] fair beta fair_policies B heads tt true) as T.
  pose proof (reward_through_pi_r [true; false] fair beta fair_policies B heads tt false) as F.
  unfold implicit_reward. unfold heads at 1 in T. unfold heads at 1 in F.
  specialize (T ltac:(simpl; lra)). specialize (F ltac:(simpl; lra)). lra.
Qed.

(* The slip: beta may be negative. Then the smaller exponential belongs to the larger reward. *)
Theorem partition_false_for_negative_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x lo hi,
       (forall x, policy answers (pi_ref x)) -> beta <> 0 ->
       (forall y, In y answers -> lo <= r x y <= hi) ->
       exp (lo / beta) <= Z answers pi_ref beta r x <= exp (hi / beta)).
Proof.
  intro H.
  specialize (H unit bool [true; false] fair (-1) heads tt 0 1 fair_policies ltac:(lra)).
  destruct H as [H1 H2]; [intros [] _; simpl; lra|].
  assert (exp (1 / -1) < exp (0 / -1)) by (apply exp_increasing; lra). lra.
Qed.

(* The slip: Z is one, so that it may be left out. *)
Theorem partition_false_as_one :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> Z answers pi_ref beta r x = 1).
Proof.
  intro H. specialize (H unit bool [true; false] fair 1 heads tt fair_policies ltac:(lra)).
  unfold Z, fair, heads in H. simpl in H.
  replace (1 / 1) with 1 in H by field. replace (0 / 1) with 0 in H by field.
  rewrite exp_0 in H. pose proof (exp_ineq1 1 ltac:(lra)). lra.
Qed.

(* The slip: beta is forgotten in the exponent of (4), as if it were 1. *)
Theorem optimum_false_without_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
       J answers pi_ref beta r pi x <= J answers pi_ref beta r (pi_r answers pi_ref 1 r) x).
Proof.
  intro H.
  pose proof (pi_r_is_policy [true; false] fair 2 fair_policies heads tt) as P.
  pose proof (pi_r_is_policy [true; false] fair 1 fair_policies heads tt) as Q.
  specialize (H unit bool [true; false] fair 2 heads (pi_r [true; false] fair 2 heads) tt
    fair_policies ltac:(lra) P (fair_everywhere _)).
  destruct (optimum_is_the_unique_maximiser [true; false] fair 2 fair_policies ltac:(lra)
    heads _ tt Q (fair_everywhere _)) as [L E].
  pose proof (proj1 E (Rle_antisym _ _ L H)) as K.
  pose proof (odds_of_heads 2 ltac:(lra)) as O2. pose proof (odds_of_heads 1 ltac:(lra)) as O1.
  unfold implicit_reward in O1, O2.
  rewrite (K true), (K false) in O1 by (simpl; auto). lra.
Qed.

(* The slip: beta may be negative. Then (4) is where the objective is least. *)
Theorem optimum_false_for_negative_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pi x,
       (forall x, policy answers (pi_ref x)) -> beta <> 0 ->
       policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
       J answers pi_ref beta r pi x <= J answers pi_ref beta r (pi_r answers pi_ref beta r) x).
Proof.
  intro H.
  assert (B : -1 <> 0) by lra.
  set (star := pi_r [true; false] fair (-1) heads).
  assert (P : policy [true; false] (star tt)) by (apply pi_r_is_policy, fair_policies).
  specialize (H unit bool [true; false] fair (-1) heads fair tt fair_policies B
    fair_policy (fair_everywhere _)).
  pose proof (within_pi_r [true; false] fair (-1) fair_policies fair heads tt
    (fair_everywhere _)) as W. fold star in H, W.
  rewrite !distance_to_pi_r in H
    by (auto using fair_policies, fair_policy, fair_everywhere).
  fold star in H.
  assert (KL [true; false] (star tt) (star tt) = 0) as K
    by (apply gibbs_equality; auto; intros y _ E; exact E).
  pose proof (gibbs_inequality _ _ _ fair_policy P W) as G.
  assert (E : KL [true; false] (fair tt) (star tt) = 0) by lra.
  pose proof (proj1 (gibbs_equality _ _ _ fair_policy P W) E) as F.
  pose proof (odds_of_heads (-1) B) as O. unfold implicit_reward in O. fold star in O.
  rewrite <- (F true), <- (F false) in O by (simpl; auto). unfold fair in O. lra.
Qed.

(* The slip: (5) without beta log Z. *)
Theorem reward_false_without_the_partition :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x y,
       (forall x, policy answers (pi_ref x)) -> 0 < beta -> 0 < pi_ref x y ->
       r x y = beta * ln (pi_r answers pi_ref beta r x y / pi_ref x y)).
Proof.
  intro H.
  assert (P : forall x : unit, policy [tt] (fun _ => 1))
    by (intros _; split; [intros; lra | simpl; lra]).
  specialize (H unit unit [tt] (fun _ _ => 1) 1 (fun _ _ => 1) tt tt P ltac:(lra) ltac:(lra)).
  unfold pi_r, Z in H. simpl in H. pose proof (exp_pos (1 / 1)).
  replace (1 / (1 * exp (1 / 1) + 0) * 1 * exp (1 / 1) / 1) with 1 in H by (field; lra).
  rewrite ln_1 in H. lra.
Qed.

(* The slip: (6) without beta. *)
Theorem preference_false_without_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x y1 y2,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
       bradley_terry r x y1 y2 =
       1 / (1 + exp (ln (pi_r answers pi_ref beta r x y2 / pi_ref x y2)
                     - ln (pi_r answers pi_ref beta r x y1 / pi_ref x y1)))).
Proof.
  intro H.
  specialize (H unit bool [true; false] fair 2 heads tt true false fair_policies
    ltac:(lra) ltac:(simpl; lra) ltac:(simpl; lra)).
  pose proof (odds_of_heads 2 ltac:(lra)) as O. unfold implicit_reward in O.
  rewrite preference_is_sigma_of_the_gap in H.
  rewrite <- (Ropp_minus_distr (ln (_ true / _))) in H.
  apply sigma_injective in H. unfold heads at 1 2 in H. lra.
Qed.

Lemma ln_of_zero : ln 0 = 0.
Proof. unfold ln. destruct (Rlt_dec 0 0); [exfalso; lra | reflexivity]. Qed.

(* The slip: the reference may be zero at the two answers. There the right side is undefined on
   paper; Coq's 0 / 0 and ln 0 are 0, so that it is 1 / 2 whatever the rewards are. *)
Theorem preference_false_where_the_reference_is_zero :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r x y1 y2,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       In y1 answers -> In y2 answers ->
       bradley_terry r x y1 y2 =
       1 / (1 + exp (beta * ln (pi_r answers pi_ref beta r x y2 / pi_ref x y2)
                     - beta * ln (pi_r answers pi_ref beta r x y1 / pi_ref x y1)))).
Proof.
  intro H.
  set (certain := fun (_ : unit) (y : option bool) =>
    match y with None => 1 | Some _ => 0 end).
  assert (P : forall x, policy [None; Some true; Some false] (certain x))
    by (intros []; split; [intros [] _|]; simpl; lra).
  specialize (H unit (option bool) [None; Some true; Some false] certain 1
    (fun _ y => match y with Some true => 1 | _ => 0 end) tt (Some true) (Some false)
    P ltac:(lra) ltac:(simpl; auto) ltac:(simpl; auto)).
  rewrite preference_is_sigma_of_the_gap in H.
  rewrite <- (Ropp_minus_distr (1 * ln (_ (Some true) / _))) in H.
  apply sigma_injective in H.
  unfold pi_r in H. simpl in H. unfold Rdiv in H.
  rewrite !Rmult_0_r, !Rmult_0_l, ln_of_zero in H. lra.
Qed.

(* One comparison and a policy with margin 1, for the refutations about (7). It need not add up
   to one there. *)
Definition one_pair : list (comparison unit bool) := [Comparison 1 tt true false].
Definition ones (_ : unit) (_ : bool) : R := 1.
Definition leaning (_ : unit) (y : bool) : R := if y then exp 1 else 1.

Lemma one_pair_comparable : comparable ones one_pair.
Proof. intros c [<-|[]]. unfold ones. simpl. lra. Qed.

Lemma loss_of_one_pair s s' :
  - (1 * ln (sigma s) + 0) = - (1 * ln (sigma s') + 0) -> s = s'.
Proof.
  intro E. apply sigma_injective, ln_inv; auto using sigma_positive. lra.
Qed.

(* The slip: chosen and rejected swapped in (7). *)
Theorem dpo_loss_false_with_answers_swapped :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta D pi,
       0 < beta -> comparable pi_ref D ->
       L_DPO pi_ref beta D pi = L_R D (fun x y => - implicit_reward pi_ref beta pi x y)).
Proof.
  intro H. specialize (H unit bool ones 1 one_pair leaning ltac:(lra) one_pair_comparable).
  unfold L_DPO, L_R, implicit_reward, one_pair, ones, leaning in H. simpl in H.
  apply loss_of_one_pair in H. rewrite !ln_div, ln_exp, ln_1 in H by (try apply exp_pos; lra).
  lra.
Qed.

(* The slip: beta enters (7) twice, in the implicit reward and before the difference. *)
Theorem dpo_loss_false_with_beta_twice :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta D pi,
       0 < beta -> comparable pi_ref D ->
       L_DPO pi_ref beta D pi = L_R D (fun x y => beta * implicit_reward pi_ref beta pi x y)).
Proof.
  intro H. specialize (H unit bool ones 2 one_pair leaning ltac:(lra) one_pair_comparable).
  unfold L_DPO, L_R, implicit_reward, one_pair, ones, leaning in H. simpl in H.
  apply loss_of_one_pair in H. rewrite !ln_div, ln_exp, ln_1 in H by (try apply exp_pos; lra).
  lra.
Qed.

(* The slip: beta is forgotten in the policy that the loss is said to lead to. *)
Theorem dpo_minimiser_false_without_beta :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pairs pi,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       weighted pairs -> comparable pi_ref pairs ->
       L_DPO pi_ref beta (labelled r pairs) (pi_r answers pi_ref 1 r) <=
       L_DPO pi_ref beta (labelled r pairs) pi).
Proof.
  intro H.
  assert (W : weighted one_pair) by (intros c [<-|[]]; simpl; lra).
  assert (C : comparable fair one_pair) by (intros c [<-|[]]; simpl; lra).
  specialize (H unit bool [true; false] fair 2 heads one_pair
    (pi_r [true; false] fair 2 heads) fair_policies ltac:(lra) W C).
  pose proof (dpo_loss_is_least_at_the_optimum [true; false] fair 2 fair_policies ltac:(lra)
    heads one_pair (pi_r [true; false] fair 1 heads) W C) as L.
  pose proof (Rle_antisym _ _ H L) as E.
  rewrite dpo_loss_is_the_reward_loss, dpo_loss_at_the_optimum in E;
    try apply labelled_comparable; auto using fair_policies; try lra.
  pose proof (proj1 (reward_loss_is_least_at_the_true_preferences _ _ _ W) E _
    (or_introl eq_refl) ltac:(simpl; lra)) as K.
  apply preference_depends_on_the_gap_only in K. simpl in K.
  pose proof (odds_of_heads 1 ltac:(lra)) as O. unfold implicit_reward in K, O. lra.
Qed.

(* The slip: the data need not compare all answers. *)
Theorem dpo_minimiser_false_with_answers_not_compared :
  ~ (forall (X Y : Type) (answers : list Y) (pi_ref : X -> Y -> R) beta r pairs pi x,
       (forall x, policy answers (pi_ref x)) -> 0 < beta ->
       weighted pairs -> comparable pi_ref pairs ->
       (forall y, In y answers -> 0 < pi_ref x y) ->
       policy answers (pi x) -> (forall y, In y answers -> 0 < pi x y) ->
       L_DPO pi_ref beta (labelled r pairs) pi =
       L_DPO pi_ref beta (labelled r pairs) (pi_r answers pi_ref beta r) ->
       forall y, In y answers -> pi x y = pi_r answers pi_ref beta r x y).
Proof.
  intro H.
  set (same := [Comparison 1 tt true true]).
  assert (W : weighted same) by (intros c [<-|[]]; simpl; lra).
  assert (C : comparable fair same) by (intros c [<-|[]]; simpl; lra).
  specialize (H unit bool [true; false] fair 1 heads same fair tt fair_policies ltac:(lra) W C
    ltac:(intros [] _; simpl; lra) fair_policy ltac:(intros [] _; simpl; lra)).
  pose proof (odds_of_heads 1 ltac:(lra)) as O. unfold implicit_reward in O.
  rewrite <- (H) in O; [|unfold L_DPO, same; simpl; now rewrite !Rminus_eq_0 | simpl; auto].
  rewrite <- (H) in O; [|unfold L_DPO, same; simpl; now rewrite !Rminus_eq_0 | simpl; auto].
  unfold fair in O. lra.
Qed.

(* A policy with one parameter: the log-probability of true is theta, that of false is 0. *)
Definition moving (theta : R) (_ : unit) (y : bool) : R := if y then exp theta else 1.
Definition slope (_ : unit) (y : bool) : R := if y then 1 else 0.

Lemma moving_positive t x y : 0 < moving t x y.
Proof. destruct y; simpl; [apply exp_pos | lra]. Qed.

Lemma moving_slope x y t : derivable_pt_lim (fun t => ln (moving t x y)) t (slope x y).
Proof.
  destruct y; simpl.
  - apply (derivable_pt_lim_ext (fun t => t)); [intro; now rewrite ln_exp|].
    apply derivable_pt_lim_id.
  - apply derivable_pt_lim_const.
Qed.

Lemma moving_gradient theta :
  derivable_pt_lim (fun t => L_DPO ones 1 one_pair (moving t)) theta (- sigma (- theta)).
Proof.
  eapply derivative_value;
    [|exact (dpo_gradient ones 1 one_pair moving slope theta one_pair_comparable
        moving_positive (fun x y => moving_slope x y theta))].
  unfold one_pair, implicit_reward, ones, moving, slope. simpl.
  rewrite !ln_div, ln_exp, ln_1 by (try apply exp_pos; lra).
  replace (1 * (0 - 0) - 1 * (theta - 0)) with (- theta) by ring. ring.
Qed.

(* The slip: the gradient of (7) without its weight. *)
Theorem dpo_gradient_false_without_the_weight :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta D (pi : R -> X -> Y -> R)
         (grad_log_pi : X -> Y -> R) theta,
       comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
       (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
       derivable_pt_lim (fun t => L_DPO pi_ref beta D (pi t)) theta
         (- beta * sum D (fun c => weight c *
            (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c))))).
Proof.
  intro H. specialize (H unit bool ones 1 one_pair moving slope 0 one_pair_comparable
    moving_positive (fun x y => moving_slope x y 0)).
  pose proof (uniqueness_limite _ _ _ _ H (moving_gradient 0)) as E. simpl in E.
  rewrite Ropp_0, sigma_0 in E. lra.
Qed.

(* The slip of A.4: the margin the wrong way round in the weight. *)
Theorem dpo_gradient_false_with_the_margin_turned :
  ~ (forall (X Y : Type) (pi_ref : X -> Y -> R) beta D (pi : R -> X -> Y -> R)
         (grad_log_pi : X -> Y -> R) theta,
       comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
       (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
       derivable_pt_lim (fun t => L_DPO pi_ref beta D (pi t)) theta
         (- beta * sum D (fun c =>
            weight c *
            (sigma (implicit_reward pi_ref beta (pi theta) (prompt c) (chosen c)
                    - implicit_reward pi_ref beta (pi theta) (prompt c) (rejected c)) *
             (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c)))))).
Proof.
  intro H. specialize (H unit bool ones 1 one_pair moving slope 1 one_pair_comparable
    moving_positive (fun x y => moving_slope x y 1)).
  pose proof (uniqueness_limite _ _ _ _ H (moving_gradient 1)) as E.
  unfold one_pair, implicit_reward, ones, moving, slope in E. simpl in E.
  rewrite !ln_div, ln_exp, ln_1 in E by (try apply exp_pos; lra).
  replace (1 * (1 - 0) - 1 * (0 - 0)) with 1 in E by ring.
  assert (K : sigma 1 = sigma (- (1))) by lra. apply sigma_injective in K. lra.
Qed.
